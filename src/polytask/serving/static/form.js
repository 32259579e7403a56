// A form that asks and stops: its fields, its button, and what runs when it is sent.

import { action, announce, el, title } from "./element.js";
import { complete, controls as controlsOf, filled } from "./field.js";

/** The panel of a task: its form and the place for its answer.
 *
 * `answer(given, signal, again)` shows what comes and throws nothing; `request(given)` is what is shown as code.
 */
export function taskForm(task, { verb, about, request, answer, extra = [] }) {
  let running = null;
  const controls = controlsOf(task);
  const ask = el("button", { type: "submit", className: "strong", onclick: pressed }, verb);
  const result = el("div", { className: "result", "aria-live": "polite", tabIndex: -1 });

  async function start() {
    if (running || !complete(controls)) return;
    running = new AbortController();
    Object.assign(ask, { type: "button", textContent: "Stop" }); // Enter in a field presses a form's submit button
    announce("The model is working.");
    await answer(result, filled(controls), running.signal, start);
    running = null;
    Object.assign(ask, { type: "submit", textContent: verb });
    announce("");
  }

  function pressed(event) {
    if (!running) return;
    event.preventDefault(); // by then it may be the button that asks again
    running.abort();
  }

  const form = el(
    "form",
    {
      noValidate: true,
      onsubmit: (event) => {
        event.preventDefault();
        start();
      },
      onkeydown: (event) => {
        if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
        event.preventDefault(); // it would press the button that has the focus as well
        if (!event.repeat) start();
      },
    },
    controls.map((control) => control.element),
    about ? el("p", { className: "help" }, about) : null,
    extra,
    el(
      "div",
      { className: "row spread" },
      el("div", { className: "row" }, ask, el("span", { className: "help keys" }, "Ctrl + Enter")),
      action("code", "Copy as code", () => request(filled(controls))),
    ),
  );
  const panel = el("section", { className: "panel task", "aria-label": title(task.name) }, el("h2", {}, title(task.name)), form, result);
  panel.addEventListener("stop", () => running?.abort());
  const taking = controls.find((control) => control.kind === "picture");
  if (taking) panel.addEventListener("pictures", ({ detail }) => taking.take(detail[0]));
  return panel;
}
