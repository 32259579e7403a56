// Tokens with their probabilities: a tint where the model hesitated, and the alternatives on hover, touch or arrow keys.

import { el } from "./element.js";

const card = el("div", { className: "alternatives", role: "tooltip", id: "alternatives", hidden: true });
document.body.append(card);
let shown = null;
const gone = new MutationObserver(() => shown.isConnected || hide()); // the pointer does not leave what is removed

/** Writes an answer as spans, one a token; a character of several tokens becomes whole with the last of them. */
export class TokenWriter {
  constructor(place) {
    Object.assign(this, { place, decoder: new TextDecoder(), written: 0, begun: null, rest: document.createTextNode("") });
    place.classList.add("tokens");
    place.addEventListener("keydown", walk);
    place.replaceChildren(this.rest);
  }

  /** `tokens` go on with the `text` so far; they may come with it or after it, and end with it. */
  add(text, tokens) {
    for (const token of tokens) {
      const piece = this.#text(token);
      const shown = text.slice(this.written).startsWith(piece) ? piece : text.slice(this.written);
      if (shown) this.rest.before(this.#span(shown, token));
      this.written += shown.length;
      this.begun = piece ? null : token;
    }
    this.rest.data = text.slice(this.written);
  }

  /** What is left in the end is of a last token that began a character and did not complete it. */
  end() {
    if (!this.rest.data || !this.begun) return;
    this.rest.before(this.#span(this.rest.data, this.begun));
    this.rest.data = "";
  }

  #text(token) {
    return token.bytes ? this.decoder.decode(new Uint8Array(token.bytes), { stream: true }) : token.token;
  }

  #span(text, token) {
    const first = !this.place.querySelector(".token");
    const share = Math.exp(token.logprob);
    const span = el("span", { className: "token", tabIndex: first ? 0 : -1 }, text);
    span.style.setProperty("--doubt", String(1 - share));
    span.addEventListener("pointerenter", () => show(span, token));
    span.addEventListener("pointerleave", hide);
    span.addEventListener("focus", () => show(span, token));
    span.addEventListener("blur", hide);
    return span;
  }
}

function walk(event) {
  const step = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
  if (event.key === "Escape") hide();
  if (!step || !event.target.matches(".token")) return;
  const next = event.target[step];
  if (!next?.matches(".token")) return;
  event.preventDefault();
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

function show(span, token) {
  shown = span;
  const others = token.top_logprobs?.length ? token.top_logprobs : [token];
  const all = others.some((other) => same(other, token)) ? others : [...others, token];
  card.replaceChildren(...all.map((other) => row(other, same(other, token))));
  card.hidden = false;
  gone.observe(document.body, { childList: true, subtree: true });
  span.setAttribute("aria-describedby", "alternatives");
  const box = span.getClientRects()[0];
  const { offsetWidth: width, offsetHeight: height } = card;
  const above = box.top > height + 12;
  card.style.setProperty("left", `${Math.max(8, Math.min(box.left, window.innerWidth - width - 8))}px`);
  card.style.setProperty("top", `${above ? box.top - height - 6 : box.bottom + 6}px`);
}

function hide() {
  gone.disconnect();
  card.hidden = true;
  shown?.removeAttribute("aria-describedby");
  shown = null;
}

window.addEventListener("scroll", hide, { capture: true, passive: true });

function row(token, chosen) {
  const bar = el("i", { className: "bar" });
  bar.style.setProperty("--share", String(Math.exp(token.logprob)));
  return el(
    "div",
    { className: chosen ? "chosen" : "" },
    el("code", {}, visible(token)),
    bar,
    el("span", { className: "number" }, percent(Math.exp(token.logprob))),
  );
}

/** Tokens that are parts of characters look alike as texts, and differ in their bytes. */
const same = (one, other) => one.token === other.token && String(one.bytes) === String(other.bytes);

/** A token's text, with a shape for white space; the bytes where they are no character by themselves. */
function visible({ token, bytes }) {
  if (token.includes("\ufffd") && bytes) return bytes.map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
  return token.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";
}

/** 0.1234 as "12.3%". */
export function percent(share) {
  if (share > 0 && share < 0.001) return "<0.1%";
  return `${(100 * share).toFixed(1)}%`;
}
