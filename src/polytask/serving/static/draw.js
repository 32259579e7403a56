// The panel of a task that is answered with pictures: drawing, editing, variations.

import { errorView, footnote } from "./answer.js";
import { ask } from "./api.js";
import { el } from "./element.js";
import { taskForm } from "./form.js";
import { gallery, slug } from "./gallery.js";
import { answeredPicture } from "./picture.js";
import { pictureRequest } from "./requests.js";
import { showCode } from "./snippets.js";

const VERBS = { drawing: "Draw", editing: "Edit", variations: "Vary" };

/** Is it asked for by the API's routes for pictures? */
export const isDrawn = (task) => task.name in VERBS && !task.own;

/** `model` tells which one is asked, `takers` where its pictures can go on to. */
export function picturePanel(task, model, takers) {
  const count = el("input", { id: `count-${task.name}`, type: "number", inputMode: "numeric", min: 1, max: 10, value: 4 });
  const wish = (given) => pictureRequest(model(), task, given, count.valueAsNumber);

  async function answer(result, given, signal, again) {
    const end = begin(result, VERBS[task.name]);
    const started = performance.now();
    try {
      const answered = await ask(wish(given), signal);
      const [words, name] = described(task, given);
      const item = (one, i) => answeredPicture(one, `${name}-${i + 1}.png`);
      const pictures = await Promise.all(answered.data.map(item));
      const told = (i) => `${words} (${i + 1} of ${pictures.length})`;
      result.replaceChildren(el("h3", { className: "speaker" }, "Pictures"), gallery(pictures, told, takers()));
      const seconds = (performance.now() - started) / 1000;
      result.append(foot([footnote({ seconds }), `seed ${answered.seed}`]));
    } catch (error) {
      if (error.name === "AbortError") result.replaceChildren(foot([footnote({ finish: "stopped" })]));
      else result.replaceChildren(errorView(error, again));
    }
    end();
  }

  const field = el(
    "div",
    { className: "field count" },
    el("label", { htmlFor: count.id }, "Pictures", el("small", {}, "1 to 10")),
    count,
  );
  const form = { verb: VERBS[task.name], request: (given) => showCode(wish(given)), answer, extra: [field] };
  return taskForm(labelled(task, model().labels), form);
}

/** A model that draws by labels is asked for one of them. Variations on the way to something else are left to requests,
    for the code that is shown calls the API's own client, which sends one picture. */
function labelled(task, labels) {
  const { caption, towards, from, to, ...others } = task.fields;
  const asked = caption && labels?.length ? { ...caption, choices: labels } : caption;
  return { ...task, fields: { ...(asked && { caption: asked }), ...others } };
}

/** What its pictures are called: for those who do not see them, and as files. */
function described(task, { caption, instruction, image }) {
  if (caption) return [caption, slug(caption)];
  if (instruction) return [`${image.name}, edited: ${instruction}`, slug(instruction)];
  return [`A variation of ${image.name}`, `${slug(image.name.replace(/\.\w+$/, ""))}-variation`];
}

/** Shows that it goes on and for how long; what is returned ends it. */
function begin(result, verb) {
  const clock = el("span", { className: "note number" }, "0 s");
  const started = performance.now();
  const ticks = setInterval(() => (clock.textContent = `${Math.round((performance.now() - started) / 1000)} s`), 1000);
  result.setAttribute("aria-busy", "true");
  result.replaceChildren(el("div", { className: "row progress" }, el("progress", { "aria-label": `${verb}: at work` }), clock));
  return () => {
    clearInterval(ticks);
    result.removeAttribute("aria-busy");
  };
}

const foot = (notes) => el("div", { className: "foot" }, el("span", { className: "note" }, notes.filter(Boolean).join(" · ")));
