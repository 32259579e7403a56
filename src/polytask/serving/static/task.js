// The panel of a task that is answered with text, built from the fields that the server lists.

import { stream } from "./api.js";
import { answerView, errorView, footnote, Output } from "./answer.js";
import { action, copy, el } from "./element.js";
import { taskForm } from "./form.js";
import { taskRequest } from "./requests.js";
import { showCode } from "./snippets.js";

/** A form of the task's fields with the answer beneath; `model` tells which one is asked. */
export function taskPanel(task, model) {
  async function answer(result, given, signal, again) {
    const { path, body } = taskRequest(model(), task, given);
    const view = begin(result, writesCode(task));
    const started = performance.now();
    const facts = {};
    try {
      for await (const event of stream(path, body, signal)) {
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
      else result.replaceChildren(errorView(error, again));
    }
    view.foot(footnote(facts));
  }

  const about = Array.isArray(task.choices) ? `One of: ${task.choices.join(", ")}` : "";
  const request = (given) => showCode(taskRequest(model(), task, given));
  return taskForm(task, { verb: "Ask", about, request, answer });
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
      const found = answer ?? output?.text ?? "";
      const text = typeof found === "string" ? found : JSON.stringify(found);
      const copying = action("copy", "Copy", () => copy(text, copying));
      foot.replaceChildren(el("span", { className: "note" }, note), el("span", { className: "acts" }, copying));
    },
  };
}
