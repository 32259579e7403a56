// The conversation: turns, a system prompt, streaming; stop, regenerate and edit.

import { stream } from "./api.js";
import { attachments } from "./attachments.js";
import { action, announce, el, icon } from "./element.js";
import { answerFormat } from "./format.js";
import { chatRequest } from "./requests.js";
import { showCode } from "./snippets.js";
import { Turn } from "./turn.js";

const touch = window.matchMedia("(pointer: coarse)");

/** The panel of a task whose example is a conversation; `model` tells which one is asked, `sees` whether pictures can
 * be shown to it. */
export function chatPanel(model, sees) {
  let turns = [];
  let running = null;

  const system = el("textarea", { id: "system", "aria-label": "System prompt", placeholder: "How the model should behave" });
  const greeting = el("p", { className: "greeting" }, "Say something to the model.");
  const log = el("div", { className: "log", role: "log", "aria-label": "Conversation", tabIndex: 0 }, greeting);
  const draft = el("textarea", {
    id: "draft", rows: 1, placeholder: "Message", "aria-label": "Message", enterKeyHint: "enter", oninput: () => mark(),
    onkeydown: (event) => typed(event),
  });
  const button = el("button", { type: "submit", className: "round" });
  const attached = attachments(() => mark());
  const clear = action("fresh", "New", () => reset());
  const held = answerFormat();
  const code = action("code", "Copy as code", () => held.complete() && showCode(request(true)));
  const composer = el(
    "form",
    {
      className: "composer",
      onsubmit: (event) => {
        event.preventDefault();
        if (running) running.abort();
        else send();
      },
    },
    sees ? attached.button : [],
    draft,
    button,
  );
  const panel = el(
    "section",
    { className: "panel chat", "aria-label": "Chat" },
    el(
      "div",
      { className: "bar-top" },
      el("details", { className: "system" }, el("summary", {}, "System prompt"), system),
      held.element,
      el("div", { className: "row" }, clear, code),
    ),
    log,
    el("div", {}, attached.strip, composer),
  );
  if (sees) panel.addEventListener("pictures", ({ detail }) => attached.add(detail));

  /** What is asked now; as code, what was asked last, or what stands in the field. */
  function request(asCode = false) {
    let all = turns;
    if (asCode) {
      while (all.at(-1)?.role === "assistant") all = all.slice(0, -1);
      if (written() || !all.length) all = [...turns, new Turn("user", draft.value.trim() || "Hello!", {}, attached.all)];
    }
    all = told(all);
    const messages = all.map((turn) => turn.message);
    if (system.value.trim()) messages.unshift({ role: "system", content: system.value.trim() });
    return chatRequest(model(), messages, all.flatMap((turn) => turn.pictures), held.format());
  }

  function add(role, content, pictures) {
    const turn = new Turn(role, content, role === "user" ? { edit } : { edit, again: regenerate }, pictures);
    turns.push(turn);
    greeting.remove();
    log.append(turn.element);
    return turn;
  }

  const written = () => Boolean(draft.value.trim() || attached.all.length);

  function send() {
    const text = draft.value.trim();
    if (!written()) return draft.focus();
    if (!held.complete()) return;
    draft.value = "";
    add("user", text, attached.take());
    return answer();
  }

  /** Drops a turn and all that follow it. */
  function cut(turn) {
    const first = turns.indexOf(turn);
    turns.splice(first).forEach((gone) => gone.element.remove());
  }

  function regenerate(turn) {
    if (running || !held.complete()) return;
    cut(turn);
    answer();
  }

  function edit(turn) {
    if (running) return;
    turn.edit((text) => {
      turn.content = text;
      turn.show();
      if (turn.role !== "user" || !held.complete()) return;
      const next = turns[turns.indexOf(turn) + 1];
      if (next) cut(next);
      answer();
    });
  }

  async function answer() {
    running?.abort(); // of an answer that was dropped while it was written
    const { path, body } = request();
    const turn = add("assistant", "");
    turn.begin(Boolean(body.response_format));
    const mine = new AbortController();
    running = mine;
    mark();
    follow(true);
    announce("The model is writing.");
    const started = performance.now();
    const facts = { tokens: 0, finish: "" };
    try {
      const wish = { ...body, stream_options: { include_usage: true } };
      for await (const event of stream(path, wish, mine.signal)) {
        const choice = event.choices?.[0];
        const near = isNear();
        const text = choice?.delta?.content ?? choice?.message?.content ?? "";
        const tokens = choice?.logprobs?.content;
        if (text || tokens?.length) turn.add(text, tokens);
        facts.finish = choice?.finish_reason ?? facts.finish;
        facts.tokens = event.usage?.completion_tokens ?? facts.tokens;
        follow(near);
      }
      facts.seconds = (performance.now() - started) / 1000;
      turn.end(facts);
      announce("The answer is complete.");
    } catch (error) {
      if (error.name === "AbortError") turn.end({ ...facts, finish: "stopped" });
      else turn.fail(error, () => regenerate(turn));
    }
    if (running === mine) running = null;
    mark();
    follow(isNear());
  }

  function typed(event) {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey && !touch.matches) {
      event.preventDefault();
      if (!running) send();
    } else if (event.key === "ArrowUp" && !draft.value && !running) {
      const last = turns.findLast((turn) => turn.role === "user");
      if (last) edit(last);
    }
  }

  panel.addEventListener("stop", () => running?.abort());

  const isNear = () => log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  const follow = (near) => near && (log.scrollTop = log.scrollHeight);

  function mark() {
    button.replaceChildren(icon(running ? "stop" : "send"));
    button.setAttribute("aria-label", running ? "Stop" : "Send");
    button.title = running ? "Stop (Esc)" : "Send (Enter)";
    button.disabled = !running && !written();
    clear.hidden = !turns.length;
  }

  function reset() {
    running?.abort();
    turns.forEach((turn) => turn.element.remove());
    turns = [];
    attached.take();
    log.append(greeting);
    mark();
    draft.focus();
  }

  mark();
  return panel;
}

/** Turns without answers that failed or are empty, and without what they were to answer: templates may refuse a turn
 * that says nothing, and two of one side in a row. */
function told(turns) {
  const empty = (turn) => turn?.role === "assistant" && !turn.content;
  return turns.filter((turn, i) => !empty(turn) && !(empty(turns[i + 1]) && i + 2 < turns.length));
}
