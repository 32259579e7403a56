// What is sent for a wish: a path, a body and its pictures, for asking and for showing as code.

import { alternatives, dials } from "./dials.js";

const ROUTES = {
  drawing: { path: "images/generations", prompt: "caption" },
  editing: { path: "images/edits", prompt: "instruction", form: true },
  variations: { path: "images/variations", form: true },
};

/** What kind of dials a task has: of texts, of pictures made of tokens, of diffusion; none where a CLIP chooses. */
export function kindOf(model, task) {
  if (task?.fields.labels && !task.fields.text) return "choice";
  if (!(task?.name in ROUTES) || task.own) return "text";
  return model.steps ? "diffusion" : "tokens";
}

/** The next turn of a conversation; `pictures` are those in its messages, `format` is what the answer is held to. */
export function chatRequest(model, messages, pictures, format) {
  const asked = alternatives();
  const body = { model: model.id, messages, ...dials("text") };
  if (asked) Object.assign(body, { logprobs: true, top_logprobs: asked });
  if (format) body.response_format = format;
  return { path: "chat/completions", body, pictures };
}

/** The answer to one example of a task. */
export function taskRequest(model, task, given) {
  const kind = kindOf(model, task);
  const given_set = task.choices?.length || given.labels?.length || given.choices?.length; // whose shares come anyway
  const drawn = Object.values(task.fields).some(({ answer, type }) => answer && type === "picture");
  const asked = kind === "text" && !given_set && !drawn && alternatives();
  const example = Object.fromEntries(Object.entries(given).map(([name, value]) => [name, value.url ?? value]));
  const body = { model: model.id, example, ...dials(kind) };
  if (asked) body.logprobs = asked;
  const pictures = Object.values(given).filter((value) => value.url);
  return { path: `tasks/${encodeURIComponent(task.name)}`, body, pictures };
}

/** n pictures by the API's routes for them; given pictures go along as files, fitted where their size is another. */
export function pictureRequest(model, task, { image, mask, ...words }, n) {
  const { path, prompt, form } = ROUTES[task.name];
  const given = { model: model.id, prompt: words[prompt], n: n || undefined, ...dials(kindOf(model, task)) };
  if (image && (image.width !== model.pixels || image.height !== model.pixels)) given.resize = true;
  const files = known({ image, mask });
  return { path, body: known(given), files: form ? files : undefined, pictures: Object.values(files) };
}

const known = (words) => Object.fromEntries(Object.entries(words).filter(([, value]) => value !== undefined));
