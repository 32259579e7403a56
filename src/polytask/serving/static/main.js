// The page: asks which models and tasks there are, and shows one panel for each task.

import { apiKey, list } from "./api.js";
import { errorView } from "./answer.js";
import { chatPanel } from "./chat.js";
import { showDials } from "./dials.js";
import { announce, el, title } from "./element.js";
import { taskPanel } from "./task.js";

const at = (id) => document.getElementById(id);
const panels = new Map();
let tasks = [];

const model = () => at("model").value;

async function load() {
  try {
    const models = await list("models");
    const before = model();
    at("model").replaceChildren(...models.map(({ id }) => el("option", { value: id }, id)));
    if (models.some(({ id }) => id === before)) at("model").value = before;
    at("model").onchange = () => choose(models);
    await choose(models);
  } catch (error) {
    at("main").replaceChildren(el("section", { className: "panel" }, errorView(error, load)));
  }
}

/** Shows the tasks of the chosen model; panels that are there keep what was written in them. */
async function choose(models) {
  const chosen = models.find(({ id }) => id === model());
  at("facts").textContent = chosen ? facts(chosen) : "";
  const all = await list(`tasks?model=${encodeURIComponent(model())}`);
  tasks = all.sort((a, b) => isChat(b) - isChat(a));
  const link = ({ name }) => el("a", { href: address(name) }, title(name));
  at("tasks").replaceChildren(el("ul", {}, tasks.map((task) => el("li", {}, link(task)))));
  show();
}

const address = (name) => `#${encodeURIComponent(name)}`;
const isChat = (task) => Object.values(task.fields).some((field) => field.type === "list[dict]");

/** "30.1 M parameters · reads 2,048 tokens" */
function facts({ parameters, max_model_len: context }) {
  const units = [[1e9, "B"], [1e6, "M"], [1e3, "k"]];
  const [size, unit] = units.find(([size]) => parameters >= size) ?? [1, ""];
  const parts = [];
  if (parameters) parts.push(`${Number((parameters / size).toPrecision(3))} ${unit} parameters`.replace("  ", " "));
  if (context) parts.push(`reads ${context.toLocaleString("en")} tokens`);
  return parts.join(" · ");
}

function show() {
  const task = tasks.find(({ name }) => address(name) === location.hash) ?? tasks[0];
  if (!task) return;
  for (const link of at("tasks").querySelectorAll("a")) {
    if (link.getAttribute("href") === address(task.name)) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ block: "nearest", inline: "center" });
    } else link.removeAttribute("aria-current");
  }
  const known = JSON.stringify(task);
  if (panels.get(task.name)?.known !== known) {
    panels.set(task.name, { known, panel: isChat(task) ? chatPanel(model) : taskPanel(task, model) });
  }
  const { panel } = panels.get(task.name);
  at("main").replaceChildren(panel);
  document.title = `${title(task.name)} · polytask`;
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
    dialog.addEventListener("click", (event) => {
      const outside = event.target === dialog && dialog.matches(":modal");
      if (outside || event.target.closest("[data-close]")) dialog.close();
    });
  }
}

/** "/" goes to the field to write in. */
function shortcuts() {
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.closest("input, textarea, select, dialog:modal")) return;
    event.preventDefault();
    at("main").querySelector(".composer textarea, .field textarea")?.focus();
  });
}

window.addEventListener("hashchange", () => {
  show();
  at("main").querySelector(".composer textarea, .field textarea")?.focus();
});
showDials(at("dials"));
arrange();
keys();
closing();
shortcuts();
load();
