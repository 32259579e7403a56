// How answers look: running text with its code in blocks, choices with their probabilities, marks filled in, errors.

import { action, copy, el } from "./element.js";
import { gallery } from "./gallery.js";
import { percent, TokenWriter } from "./tokens.js";

/** The place where an answer appears while it is written: text, or tokens where their probabilities come along. */
export class Output {
  constructor(place, { code = false } = {}) {
    Object.assign(this, { place, code, text: "", writer: null });
  }

  add(text, tokens) {
    this.text += text;
    if (tokens?.length) this.writer ??= new TokenWriter(this.place);
    if (this.writer) this.writer.add(this.text, tokens ?? []);
    else if (this.code || !this.text.includes("```")) this.place.append(text);
    else this.place.replaceChildren(...prose(this.text));
  }

  end() {
    this.writer?.end();
  }
}

/** Text in which what stands between fences is a block of code. A fence's line has no more backticks (CommonMark 4.5). */
export function prose(text) {
  const pieces = text.split(/^[ \t]*`{3,}(?=[^`\n]*$)/m);
  return pieces.map((piece, i) => {
    if (i % 2 === 0) return i === 0 ? piece.replace(/\n+$/, (ends) => (pieces.length > 1 ? "" : ends)) : piece.trim();
    const body = piece.replace(/^[^\n]*\n?/, "").replace(/\n$/, "");
    const button = action("copy", "Copy", () => copy(body, button));
    return el("div", { className: "code" }, el("pre", { tabIndex: 0 }, body), button);
  });
}

/** A text that is to be JSON, with a line for each value; what is none as it came, and what is wrong with it. */
export function jsonView(text) {
  try {
    return el("pre", { className: "json", tabIndex: 0, "aria-label": "JSON" }, JSON.stringify(JSON.parse(text), null, 2));
  } catch (error) {
    return el("div", {}, text, el("p", { className: "complaint" }, `This is no whole JSON: ${error.message}.`));
  }
}

/** The answer of a task, by its shape: {choice: probability}, a picture, a mapping of marks, a program or a text. */
export function answerView(answer, { probabilities, example = {}, code = false } = {}) {
  if (probabilities && Object.keys(probabilities).length) return choices(probabilities, answer);
  if (answer?.b64_json) return drawn(answer);
  if (answer !== null && typeof answer === "object") return mapping(answer, example);
  const text = String(answer ?? "");
  if (!text) return el("p", { className: "note" }, "The answer is empty.");
  return code ? el("pre", { tabIndex: 0 }, text) : el("div", { className: "text" }, prose(text));
}

function drawn({ b64_json: bytes }) {
  const picture = { url: `data:image/png;base64,${bytes}`, name: "drawn.png" };
  return gallery([picture], () => "The picture that the model drew", []);
}

function choices(probabilities, answer) {
  const ranked = Object.entries(probabilities).sort(([, a], [, b]) => b - a);
  return el(
    "ol",
    { className: "choices" },
    ranked.map(([choice, share]) => {
      const bar = el("i", { className: "bar" });
      bar.style.setProperty("--share", String(share));
      const chosen = choice === answer;
      return el(
        "li",
        { className: chosen ? "chosen" : "" },
        el("span", {}, choice, chosen ? el("span", { className: "hidden" }, " (the answer)") : null),
        bar,
        el("span", { className: "number" }, percent(share)),
      );
    }),
  );
}

/** Where the keys are marks of a text that was asked about, that text with each filled in; else keys with values. */
function mapping(answer, example) {
  const marks = Object.keys(answer);
  const text = Object.values(example).find(
    (value) => typeof value === "string" && marks.length && marks.every((mark) => value.includes(mark)),
  );
  if (text) return el("p", { className: "text" }, filled(text, answer));
  if (!marks.length) return el("p", { className: "note" }, "The answer is empty.");
  const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  return el("dl", {}, Object.entries(answer).flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, shown(v))]));
}

function filled(text, answer) {
  const places = Object.keys(answer).map((mark) => mark.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return text
    .split(new RegExp(`(${places.join("|")})`))
    .map((piece) => (piece in answer ? el("mark", { title: piece }, String(answer[piece])) : piece));
}

/** "31 tokens · 0.6 s · 52 tokens/s · cut at max tokens" */
export function footnote({ tokens, seconds, finish }) {
  const parts = [];
  if (tokens) parts.push(`${tokens} ${tokens === 1 ? "token" : "tokens"}`);
  if (seconds >= 0.05) parts.push(`${seconds.toFixed(1)} s`);
  if (tokens && seconds >= 0.05) parts.push(`${Math.round(tokens / seconds)} tokens/s`);
  if (finish === "length") parts.push("cut at the limit of tokens");
  if (finish === "stopped") parts.push("stopped");
  return parts.join(" · ");
}

/** What went wrong and what can be done: asking again, or a key where one is wanted. */
export function errorView(error, again) {
  const wantsKey = error.status === 401 || error.status === 403;
  const kind = [error.status, error.code || error.type, error.param].filter(Boolean).join(" · ");
  const enter = () => document.getElementById("key-dialog").showModal();
  return el(
    "div",
    { className: "error", role: "alert" },
    el("p", {}, error.message),
    kind ? el("p", { className: "kind" }, kind) : null,
    el(
      "div",
      { className: "row" },
      wantsKey ? el("button", { type: "button", className: "small", onclick: enter }, "Enter an API key") : null,
      again ? el("button", { type: "button", className: "small", onclick: again }, "Try again") : null,
    ),
  );
}
