// The dials of sampling: what is left empty is the server's to choose, and is not sent.

import { el } from "./element.js";

const KEPT = "polytask-dials";
const TEXT = ["text"];
const ANY = ["text", "tokens", "diffusion"];
const DIFFUSION = ["diffusion"];

const DIALS = [
  { name: "temperature", label: "Temperature", of: ["text", "tokens"], step: 0.05, min: 0, max: 2, slider: true,
    help: "0 takes the likeliest token; more is more varied." },
  { name: "steps", label: "Steps", of: DIFFUSION, step: 1, min: 1, help: "Passes of the network for a picture." },
  { name: "guidance", label: "Guidance", of: DIFFUSION, step: 0.5, min: 0, max: 20, slider: true,
    help: "How strongly it is led to what is asked; 1 is not at all." },
  { name: "sampler", label: "Sampler", of: DIFFUSION, options: ["ddim", "ddpm", "euler", "heun", "dpm_solver"],
    help: "How noise is taken away." },
  { name: "threshold", label: "Threshold", of: DIFFUSION, options: ["static", "dynamic", "none"], more: true,
    help: "How values out of range are brought back at each step." },
  { name: "top_p", label: "Top-p", of: TEXT, step: 0.01, min: 0.01, max: 1, slider: true,
    help: "Draws from the likeliest tokens that together have this probability." },
  { name: "max_tokens", label: "Max tokens", of: TEXT, step: 1, min: 1, help: "An answer ends there at the latest." },
  { name: "top_k", label: "Top-k", of: ["text", "tokens"], step: 1, min: 0, help: "Draws from so many likeliest tokens; 0 from all." },
  { name: "min_p", label: "Min-p", of: TEXT, step: 0.01, min: 0, max: 1, more: true,
    help: "Leaves out what has less than this share of the likeliest token's probability." },
  { name: "seed", label: "Seed", of: ANY, step: 1, help: "The same seed gives the same answer." },
  { name: "presence_penalty", label: "Presence penalty", of: TEXT, step: 0.1, min: -2, max: 2, more: true,
    help: "Against tokens that were written before." },
  { name: "frequency_penalty", label: "Frequency penalty", of: TEXT, step: 0.1, min: -2, max: 2, more: true,
    help: "The same, once for each time." },
  { name: "repetition_penalty", label: "Repetition penalty", of: TEXT, step: 0.05, min: 0.05, more: true,
    help: "Above 1 it works against repetition, the prompt's words included." },
];

const values = read();

/** What is set of the dials of a kind ("text", "tokens" of a picture, "diffusion", "choice": none), under the names of requests. */
export function dials(kind) {
  const set = {};
  for (const { name, options } of dialsOf(kind)) if (options ? values[name] : Number.isFinite(values[name])) set[name] = values[name];
  const stop = kind === "text" ? (values.stop ?? "").split("\n").filter(Boolean) : [];
  if (stop.length) set.stop = stop.map((line) => line.replaceAll("\\n", "\n").replaceAll("\\t", "\t"));
  return set;
}

const dialsOf = (kind) => DIALS.filter((dial) => dial.of.includes(kind));

/** How many alternatives of each token are asked for; 0 without. */
export const alternatives = () => (values.logprobs ? 5 : 0);

/** Fills the panel with one control for each dial of a kind. */
export function showDials(place, kind) {
  const controls = dialsOf(kind).map((dial) => [dial, dial.slider ? slider(dial) : number(dial)]);
  const parts = (more) => controls.filter(([dial]) => Boolean(dial.more) === more).map(([, control]) => control);
  const more = parts(true);
  const texts = kind === "text";
  place.dataset.kind = kind;
  if (!controls.length) return place.replaceChildren(el("p", { className: "help" }, "There is nothing to set."));
  place.replaceChildren(
    ...(texts ? [toggle()] : []),
    ...parts(false),
    ...(texts ? [stops()] : []),
    ...(more.length ? [el("details", {}, el("summary", {}, "More"), more)] : []),
    el("button", { type: "button", className: "small", onclick: () => reset(place, kind) }, "Reset all"),
  );
}

function reset(place, kind) {
  for (const name of Object.keys(values)) delete values[name];
  keep();
  showDials(place, kind);
  place.querySelector("input, select").focus();
}

function number(dial) {
  const { name, label, help } = dial;
  return el(
    "div",
    { className: "dial" },
    el("label", { htmlFor: `dial-${name}` }, label),
    dial.options ? choice(dial) : input(dial),
    el("p", { className: "help", id: `help-${name}` }, help),
  );
}

function choice({ name, options }) {
  const select = el(
    "select",
    {
      id: `dial-${name}`, "aria-describedby": `help-${name}`,
      onchange: () => {
        select.value ? (values[name] = select.value) : delete values[name];
        keep();
      },
    },
    el("option", { value: "" }, "auto"),
    options.map((one) => el("option", {}, one)),
  );
  select.value = values[name] ?? "";
  return select;
}

function input({ name, step, min, max }, onchange = () => {}) {
  return el("input", {
    id: `dial-${name}`, type: "number", inputMode: step === 1 ? "numeric" : "decimal", step: step === 1 ? 1 : "any",
    min, max, placeholder: "auto", value: values[name] ?? "", "aria-describedby": `help-${name}`,
    oninput: (event) => {
      const valid = event.target.value !== "" && event.target.validity.valid;
      valid ? (values[name] = event.target.valueAsNumber) : delete values[name];
      keep();
      onchange();
    },
  });
}

function slider(dial) {
  const { name, label, step, min, max } = dial;
  const range = el("input", {
    type: "range", min, max, step, value: values[name] ?? max / 2, "aria-label": `${label}, slider`,
    oninput: () => {
      field.value = range.value;
      values[name] = range.valueAsNumber;
      keep();
      mark();
    },
  });
  const mark = () => {
    range.classList.toggle("unset", !(name in values));
    if (name in values) range.value = values[name];
  };
  const field = input(dial, mark);
  mark();
  const control = number(dial);
  control.querySelector("input").replaceWith(field);
  control.querySelector(".help").before(range);
  return control;
}

function stops() {
  return el(
    "div",
    { className: "dial wide" },
    el("label", { htmlFor: "dial-stop" }, "Stop"),
    el("textarea", {
      id: "dial-stop", rows: 1, spellcheck: false, value: values.stop ?? "", placeholder: "none",
      "aria-describedby": "help-stop",
      oninput: (event) => {
        values.stop = event.target.value;
        keep();
      },
    }),
    el("p", { className: "help", id: "help-stop" }, "Texts that end an answer, one a line; \\n is a line break."),
  );
}

function toggle() {
  return el(
    "label",
    { className: "switch" },
    el("input", {
      type: "checkbox", role: "switch", checked: Boolean(values.logprobs),
      onchange: (event) => {
        values.logprobs = event.target.checked;
        keep();
      },
    }),
    el("span", {}, "Token probabilities", el("small", {}, "Point at a token for what else it might have been.")),
  );
}

function keep() {
  sessionStorage.setItem(KEPT, JSON.stringify(values));
}

function read() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}
