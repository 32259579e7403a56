// What is sent for a wish: a path and a body, for asking and for showing as code.

import { alternatives, dials } from "./dials.js";

/** The next turn of a conversation. */
export function chatRequest(model, messages) {
  const asked = alternatives();
  const body = { model, messages, ...dials() };
  if (asked) Object.assign(body, { logprobs: true, top_logprobs: asked });
  return { path: "chat/completions", body };
}

/** The answer to one example of a task. */
export function taskRequest(model, task, example) {
  const asked = alternatives();
  const body = { model, example, ...dials() };
  if (asked) body.logprobs = asked;
  return { path: `tasks/${encodeURIComponent(task.name)}`, body };
}
