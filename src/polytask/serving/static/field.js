// One control for each field of a task: a text, a choice, a list of lines, a picture, a mask painted over a picture.

import { el, title } from "./element.js";
import { maskField } from "./mask.js";
import { pictureChooser } from "./chooser.js";

/** The controls of a task's fields, those first that are required: {name, element, kind, value(), ...}. */
export function controls(task) {
  const fields = Object.entries(task.fields)
    .filter(([, field]) => !field.answer)
    .sort(([, one], [, other]) => other.required - one.required);
  const first = fields.find(([, field]) => field.type !== "picture")?.[0];
  const made = fields.map(([name, field]) => control(task, name, field, name === first));
  const [picture, mask] = ["picture", "mask"].map((kind) => made.find((one) => one.kind === kind));
  if (picture && mask) picture.heard = mask.show;
  return made;
}

/** Are the required fields filled? Says where one is not. */
export function complete(controls) {
  const missing = controls.filter((one) => one.required && !one.filled());
  for (const one of missing) one.complain(`${title(one.name)} is needed.`);
  missing[0]?.focus();
  return !missing.length;
}

/** What is filled in, by the fields' names. */
export function filled(controls) {
  return Object.fromEntries(controls.filter((one) => one.filled()).map((one) => [one.name, one.value()]));
}

const isMask = (name, { type }) => type === "picture" && name === "mask";

function control(task, name, field, first) {
  const id = `field-${task.name}-${name}`;
  const list = field.type === "list[str]";
  const help = isMask(name, field) ? "paint where the picture may change" : field.help;
  const hint = [help, list ? "one a line" : ""].filter(Boolean).join("; ");
  const words = { id, name, label: title(name), described: hint ? `${id}-help` : undefined, required: field.required };
  const picture = field.type === "picture";
  const make = isMask(name, field) ? mask : picture ? chosen : list ? lines : field.choices ? choice : text;
  const made = make(words, first, field.choices);
  const complaint = el("p", { className: "complaint", role: "alert" });
  made.complain = (told) => {
    complaint.textContent = told;
    told ? made.input.setAttribute("aria-invalid", "true") : made.input.removeAttribute("aria-invalid");
  };
  made.cleared = () => made.complain("");
  const element = el(
    "div",
    { className: "field" },
    el("label", { htmlFor: id }, words.label, field.required ? null : el("small", {}, "optional")),
    hint ? el("p", { className: "help", id: `${id}-help` }, hint.charAt(0).toUpperCase() + hint.slice(1)) : null,
    made.body,
    complaint,
  );
  return Object.assign(made, { name, required: field.required, element, focus: () => made.input.focus() });
}

function text({ id, name, described, required }, first) {
  const input = el("textarea", {
    id, name, rows: 1, className: first ? "tall" : "", required, "aria-describedby": described, oninput: () => made.cleared(),
  });
  const made = { kind: "text", input, body: input, value: () => input.value, filled: () => Boolean(input.value.trim()) };
  return made;
}

function lines(words, first) {
  const made = text(words, first);
  made.input.classList.add("list");
  const written = () => made.input.value.split("\n").map((line) => line.trim()).filter(Boolean);
  return Object.assign(made, { kind: "list", value: written, filled: () => written().length > 0 });
}

function choice({ id, name, described }, first, choices) {
  const input = el("select", { id, name, "aria-describedby": described }, choices.map((one) => el("option", {}, one)));
  return { kind: "choice", input, body: input, value: () => input.value, filled: () => true };
}

function chosen({ id, name, described }) {
  const changed = (picture) => {
    made.cleared();
    made.heard?.(picture);
  };
  const chooser = pictureChooser({ id, name, described, onchange: changed });
  const made = {
    kind: "picture", input: chooser.input, body: chooser.element, take: chooser.take,
    value: () => chooser.value, filled: () => Boolean(chooser.value),
  };
  return made;
}

function mask({ id, label, described }) {
  const field = maskField({ id, label, described, onchange: () => made.cleared() });
  const made = {
    kind: "mask", input: field.canvas, body: field.element, show: field.show, value: field.picture, filled: field.painted,
  };
  return made;
}
