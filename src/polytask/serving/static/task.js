// The panel of any task, built from the fields that the server lists: what is not known of it is not needed here.

import { stream } from "./api.js";
import { answerView, errorView, footnote, Output } from "./answer.js";
import { action, announce, copy, el, title } from "./element.js";
import { taskRequest } from "./requests.js";
import { showCode } from "./snippets.js";

/** A form of the task's fields with the answer beneath; `model` tells which one is asked. */
export function taskPanel(task, model) {
  let running = null;
  const fields = Object.entries(task.fields)
    .filter(([, field]) => !field.answer)
    .sort(([, a], [, b]) => b.required - a.required);
  const controls = fields.map(([name, field], i) => control(task, name, field, i === 0));
  const ask = el("button", { type: "submit", className: "strong" }, "Ask");
  const result = el("div", { className: "result", "aria-live": "polite", tabIndex: -1 });
  const code = () => showCode(taskRequest(model(), task, example(controls)));
  const form = el(
    "form",
    {
      noValidate: true,
      onsubmit: (event) => {
        event.preventDefault();
        if (running) running.abort();
        else if (complete(controls)) answer();
      },
      onkeydown: (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
        if (event.key === "Escape") running?.abort();
      },
    },
    controls.map((control) => control.element),
    Array.isArray(task.choices) ? el("p", { className: "help" }, `One of: ${task.choices.join(", ")}`) : null,
    el(
      "div",
      { className: "row spread" },
      el("div", { className: "row" }, ask, el("span", { className: "help keys" }, "Ctrl + Enter")),
      action("code", "Copy as code", code),
    ),
  );

  async function answer() {
    const given = example(controls);
    const { path, body } = taskRequest(model(), task, given);
    running = new AbortController();
    ask.textContent = "Stop";
    const view = begin(result, writesCode(task));
    announce("The model is working.");
    const started = performance.now();
    const facts = {};
    try {
      for await (const event of stream(path, body, running.signal)) {
        const last = event.answers?.[0];
        const tokens = (event.logprobs ?? last?.logprobs)?.content;
        if (event.text || tokens?.length) view.add(event.text ?? "", tokens);
        facts.tokens = event.usage?.completion_tokens ?? facts.tokens;
        if (last) view.end(last, given);
        facts.finish = last?.finish_reason;
      }
      facts.seconds = (performance.now() - started) / 1000;
    } catch (error) {
      if (error.name === "AbortError") facts.finish = "stopped";
      else result.replaceChildren(errorView(error, answer));
    }
    running = null;
    ask.textContent = "Ask";
    view.foot(footnote(facts));
    announce("");
  }

  return el("section", { className: "panel task", "aria-label": title(task.name) }, el("h2", {}, title(task.name)), form, result);
}

/** Programs are what a metric runs; they are shown as such. */
const writesCode = (task) => (task.metrics ?? []).some((metric) => metric.startsWith("pass@"));

function begin(result, code) {
  const body = el("div", { className: code ? "text mono" : "text" }, el("span", { className: "waiting", "aria-hidden": "true" }));
  const foot = el("div", { className: "foot" });
  result.setAttribute("aria-busy", "true");
  result.replaceChildren(el("h3", { className: "speaker" }, "Answer"), body, foot);
  let output = null;
  let answer = null;
  return {
    add(text, tokens) {
      if (!output) body.replaceChildren();
      output ??= new Output(body, { code });
      output.add(text, tokens);
    },
    /** The answer as the task reads it; tokens stay where they say the same, and else beneath it. */
    end(last, example) {
      answer = last.answer;
      output?.end();
      const tokens = output?.writer ? body : null;
      if (tokens && typeof answer === "string" && answer.trim() === output.text.trim()) return;
      const shown = answerView(answer, { probabilities: last.probabilities, example, code });
      body.replaceWith(...(tokens ? [shown, el("p", { className: "help" }, "Token by token"), tokens] : [shown]));
    },
    foot(note) {
      body.querySelector(".waiting")?.remove();
      result.removeAttribute("aria-busy");
      const text = typeof answer === "string" ? answer : JSON.stringify(answer ?? output?.text ?? "");
      const copying = action("copy", "Copy", () => copy(text, copying));
      foot.replaceChildren(el("span", { className: "note" }, note), el("span", { className: "acts" }, copying));
    },
  };
}

function control(task, name, field, first) {
  const id = `field-${task.name}-${name}`;
  const list = field.type === "list[str]";
  const hint = [field.help, list ? "one a line" : ""].filter(Boolean).join("; ");
  const input = el("textarea", {
    id, name, rows: 1, className: first ? "tall" : list ? "list" : "", required: field.required, "aria-describedby": `${id}-help`, oninput: clear,
  });
  const complaint = el("p", { className: "complaint", role: "alert" });
  function clear() {
    complaint.textContent = "";
    input.removeAttribute("aria-invalid");
  }
  const element = el(
    "div",
    { className: "field" },
    el("label", { htmlFor: id }, title(name), field.required ? null : el("small", {}, "optional")),
    hint ? el("p", { className: "help", id: `${id}-help` }, hint.charAt(0).toUpperCase() + hint.slice(1)) : null,
    input,
    complaint,
  );
  return { name, field, list, input, complaint, element };
}

/** Are the required fields filled? Says where one is not. */
function complete(controls) {
  const missing = controls.filter(({ field, input }) => field.required && !input.value.trim());
  for (const { name, input, complaint } of missing) {
    complaint.textContent = `${title(name)} is needed.`;
    input.setAttribute("aria-invalid", "true");
  }
  missing[0]?.input.focus();
  return !missing.length;
}

/** What is filled in, as the task's example. */
function example(controls) {
  const given = {};
  for (const { name, list, input } of controls) {
    const lines = input.value.split("\n").map((line) => line.trim()).filter(Boolean);
    if (list && lines.length) given[name] = lines;
    else if (!list && input.value) given[name] = input.value;
  }
  return given;
}
