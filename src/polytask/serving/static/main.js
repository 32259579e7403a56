// The page: asks which models and tasks there are, and shows one panel for each task.

import { apiKey, list } from "./api.js";
import { errorView } from "./answer.js";
import { chatPanel } from "./chat.js";
import { showDials } from "./dials.js";
import { isDrawn, picturePanel } from "./draw.js";
import { announce, el, title } from "./element.js";
import { hand, listenForPictures } from "./incoming.js";
import { kindOf } from "./requests.js";
import { taskPanel } from "./task.js";

const at = (id) => document.getElementById(id);
const panels = new Map();
const TAKERS = [
  { task: "editing", label: "Edit this", icon: "edit" },
  { task: "variations", label: "Use for variations", icon: "vary" },
  { task: "captioning", label: "Caption this", icon: "tell" },
];
let models = [];
let tasks = [];

const model = () => models.find(({ id }) => id === at("model").value);

async function load() {
  try {
    models = await list("models");
    const before = at("model").value;
    at("model").replaceChildren(...models.map(({ id }) => el("option", { value: id }, id)));
    if (models.some(({ id }) => id === before)) at("model").value = before;
    at("model").onchange = choose;
    await choose();
  } catch (error) {
    failed(error);
  }
}

function failed(error) {
  offer([]);
  at("main").replaceChildren(el("section", { className: "panel" }, errorView(error, load)));
}

/** These tasks and links to them, in place of those before. */
function offer(found) {
  tasks = found;
  const link = ({ name }) => el("a", { href: address(name) }, title(name));
  at("tasks").replaceChildren(el("ul", {}, tasks.map((task) => el("li", {}, link(task)))));
  at("tasks").removeAttribute("aria-busy");
}

/** Shows the tasks of the chosen model; panels that are there keep what was written in them. */
async function choose() {
  const asked = at("model").value;
  at("facts").textContent = model() ? facts(model()) : "";
  at("tasks").setAttribute("aria-busy", "true");
  let all;
  try {
    all = await list(`tasks?model=${encodeURIComponent(asked)}`);
  } catch (error) {
    return asked === at("model").value ? failed(error) : undefined;
  }
  if (asked !== at("model").value) return; // another one was chosen meanwhile
  offer(all.sort((a, b) => isChat(b) - isChat(a)).map(readable));
  show();
}

/** A model of texts alone is given no pictures. */
function readable(task) {
  if (model().pixels) return task;
  const fields = Object.entries(task.fields).filter(([, field]) => field.type !== "picture");
  return { ...task, fields: Object.fromEntries(fields) };
}

const address = (name) => `#${encodeURIComponent(name)}`;
const isChat = (task) => Object.values(task.fields).some((field) => field.type === "list[dict]");

/** "30.1 M parameters · reads 2,048 tokens · 32 × 32 pixels" */
function facts({ parameters, max_model_len: context, pixels }) {
  const units = [[1e9, "B"], [1e6, "M"], [1e3, "k"]];
  const [size, unit] = units.find(([size]) => parameters >= size) ?? [1, ""];
  const parts = [];
  if (parameters) parts.push(`${Number((parameters / size).toPrecision(3))} ${unit} parameters`.replace("  ", " "));
  if (context) parts.push(`reads ${context.toLocaleString("en")} tokens`);
  if (pixels) parts.push(`${pixels} × ${pixels} pixels`);
  return parts.join(" · ");
}

function show() {
  const task = tasks.find(({ name }) => address(name) === location.hash) ?? tasks[0];
  if (!task) return nothing();
  for (const link of at("tasks").querySelectorAll("a")) {
    if (link.getAttribute("href") === address(task.name)) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ block: "nearest", inline: "center" });
    } else link.removeAttribute("aria-current");
  }
  at("main").replaceChildren(panel(task));
  const kind = kindOf(model(), task);
  if (at("dials").dataset.kind !== kind) showDials(at("dials"), kind);
  document.title = `${title(task.name)} · polytask`;
}

function nothing() {
  const told = "This model has no task to be asked here; the API has what it can do.";
  at("main").replaceChildren(el("section", { className: "panel" }, el("p", { className: "note" }, told)));
}

/** The panel of a task, another one where the task or what the model takes differs. */
function panel(task) {
  const { pixels, steps, labels } = model();
  const key = JSON.stringify([task, pixels, steps, labels]);
  if (!panels.has(key)) panels.set(key, made(task));
  return panels.get(key);
}

function made(task) {
  if (isChat(task)) return chatPanel(model, tasks.some(({ name }) => name === "captioning"));
  return isDrawn(task) ? picturePanel(task, model, takers) : taskPanel(task, model);
}

/** Where a picture of an answer can go on to. */
function takers() {
  const able = TAKERS.map((taker) => ({ ...taker, task: tasks.find(({ name }) => name === taker.task) }));
  return able.filter(({ task }) => task).map(({ task, ...words }) => ({ ...words, take: (picture) => pass(task, picture) }));
}

function pass(task, picture) {
  location.hash = address(task.name);
  hand(panel(task), [picture]);
  at("main").scrollTop = 0;
}

/** The dials stand beside the panel where there is room, and in a sheet above it where there is none. */
function arrange() {
  const wide = window.matchMedia("(min-width: 68rem)");
  const sheet = at("settings");
  const place = () => {
    sheet.close();
    if (wide.matches) sheet.show();
  };
  at("open-settings").addEventListener("click", () => sheet.showModal());
  wide.addEventListener("change", place);
  place();
}

function keys() {
  const dialog = at("key-dialog");
  const mark = () => at("open-key").classList.toggle("set", Boolean(apiKey.get()));
  at("open-key").addEventListener("click", () => dialog.showModal());
  dialog.addEventListener("close", () => (at("key").value = apiKey.get()));
  dialog.querySelector("form").addEventListener("submit", () => {
    apiKey.set(at("key").value.trim());
    announce(apiKey.get() ? "The key is set." : "The key is removed.");
    mark();
    load();
  });
  at("key").value = apiKey.get();
  mark();
}

/** A click beside a modal dialog closes it, and so do the buttons marked for it. */
function closing() {
  for (const dialog of document.querySelectorAll("dialog")) {
    let pressed = false; // beside it; where text is selected, only the release may be
    dialog.addEventListener("pointerdown", (event) => (pressed = beside(dialog, event)));
    dialog.addEventListener("click", (event) => {
      if ((pressed && beside(dialog, event)) || event.target.closest("[data-close]")) dialog.close();
    });
  }
}

/** Is a dialog's backdrop pointed at? Its events are the dialog's. */
function beside(dialog, { target, clientX: x, clientY: y }) {
  const { left, right, top, bottom } = dialog.getBoundingClientRect();
  return target === dialog && (x < left || x > right || y < top || y > bottom);
}

/** "/" goes to the field to write in, the skip link to what is shown; Escape stops what is written there. */
function shortcuts() {
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address names the task
    at("main").focus();
  });
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog:modal")) return;
    if (event.key === "Escape") at("main").firstElementChild?.dispatchEvent(new Event("stop"));
    if (event.key !== "/" || event.target.closest("input, textarea, select")) return;
    event.preventDefault();
    at("main").querySelector(".composer textarea, .field textarea")?.focus();
  });
}

window.addEventListener("hashchange", () => {
  if (!tasks.length) return; // what is said of that stays
  show();
  at("main").querySelector(".composer textarea, .field textarea")?.focus();
});
listenForPictures(() => at("main").firstElementChild);
arrange();
keys();
closing();
shortcuts();
load();
