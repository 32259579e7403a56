// What the page asks of the server, and nothing else of anybody: OpenAI's routes and the tasks'.

import { asFile } from "./picture.js";

const BASE = new URL("v1/", document.baseURI);
const KEY = "polytask-key";

export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** What went wrong, as the server says it: {error: {message, type, code, param}}. */
export class ApiError extends Error {
  constructor(message, { status = 0, type = "", code = "", param = "" } = {}) {
    super(message);
    Object.assign(this, { status, type, code, param });
  }
}

export const url = (path) => new URL(path, BASE).href;

export async function list(path) {
  const response = await send(path, {});
  return (await response.json()).data;
}

/** An answer that comes whole; where files go along, {name: picture}, the request is a form. */
export async function ask({ path, body, files }, signal) {
  const response = await send(path, { method: "POST", body: files ? form(body, files) : JSON.stringify(body), signal });
  return response.json();
}

/** The JSON events of a streamed answer; the one object where the server does not stream. */
export async function* stream(path, body, signal) {
  const response = await send(path, {
    method: "POST",
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  if (!(response.headers.get("content-type") ?? "").startsWith("text/event-stream")) {
    yield await response.json();
    return;
  }
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(event.error.message, event.error);
    yield event;
  }
  throw new ApiError("The connection ended before the answer did.", { type: "connection_error" });
}

async function send(path, options) {
  const headers = typeof options.body === "string" ? { "Content-Type": "application/json" } : {};
  if (apiKey.get()) headers.Authorization = `Bearer ${apiKey.get()}`;
  let response;
  try {
    response = await fetch(url(path), { ...options, headers, credentials: "omit", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it still running?", { type: "connection_error" });
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

function form(body, files) {
  const made = new FormData();
  for (const [name, value] of Object.entries(body)) made.append(name, String(value));
  for (const [name, picture] of Object.entries(files)) made.append(name, asFile(picture));
  return made;
}

async function refusal(response) {
  const status = response.status;
  const found = await response.json().catch(() => ({}));
  const told = found.error ?? {};
  const fallback = `The server answered with status ${status} ${response.statusText}`.trim() + ".";
  return new ApiError(told.message || fallback, { ...told, status });
}

/** The data of server-sent events; a line ends as it likes, and comments keep the connection open. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
        else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
