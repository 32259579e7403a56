// A request as code: curl, and Python with the openai client or requests. The key itself is never shown.

import { apiKey, url } from "./api.js";
import { action, copy, el } from "./element.js";

const OPENAI = new Set([
  "model", "messages", "temperature", "top_p", "max_tokens", "seed", "stop", "presence_penalty", "frequency_penalty",
  "logprobs", "top_logprobs", "response_format",
]); // what the client takes by name; the rest is extra_body

/** The ways to write a request, as [name, code] pairs. */
export function snippets({ path, body }) {
  const python = path === "chat/completions" ? ["Python, openai", openai(body)] : ["Python, requests", plain(path, body)];
  return [["curl", curl(path, body)], python];
}

function curl(path, body) {
  const data = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  const key = apiKey.get() ? '  -H "Authorization: Bearer $POLYTASK_API_KEY" \\\n' : "";
  return `curl ${url(path)} \\\n  -H "Content-Type: application/json" \\\n${key}  -d '${data}'`;
}

function openai(body) {
  const named = Object.entries(body).filter(([name]) => OPENAI.has(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !OPENAI.has(name)));
  const lines = named.map(([name, value]) => `    ${name}=${literal(value, "    ")},`);
  if (Object.keys(extra).length) lines.push(`    extra_body=${literal(extra, "    ")},`);
  const key = apiKey.get() ? 'os.environ["POLYTASK_API_KEY"]' : '"none"';
  return [
    ...(apiKey.get() ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${url(".").replace(/\/$/, "")}", api_key=${key})`,
    "answer = client.chat.completions.create(",
    ...lines,
    ")",
    "print(answer.choices[0].message.content)",
  ].join("\n");
}

function plain(path, body) {
  const key = apiKey.get() ? '    headers={"Authorization": "Bearer " + os.environ["POLYTASK_API_KEY"]},\n' : "";
  return [
    ...(apiKey.get() ? ["import os", ""] : []),
    "import requests",
    "",
    "response = requests.post(",
    `    "${url(path)}",`,
    `${key}    json=${literal(body, "    ")},`,
    ")",
    "response.raise_for_status()",
    'print(response.json()["answers"][0]["answer"])',
  ].join("\n");
}

/** A value as Python writes it. JSON's strings are Python's too. */
export function literal(value, indent = "") {
  const inner = `${indent}    `;
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const list = Array.isArray(value);
  const parts = list
    ? value.map((part) => literal(part, inner))
    : Object.entries(value).map(([name, part]) => `${JSON.stringify(name)}: ${literal(part, inner)}`);
  const [open, close] = list ? "[]" : "{}";
  const short = `${open}${parts.join(", ")}${close}`;
  if (short.length <= 72 && !short.includes("\n")) return short;
  return `${open}\n${parts.map((part) => `${inner}${part},`).join("\n")}\n${indent}${close}`;
}

/** Shows a request as code in the dialog. */
export function showCode(request) {
  const dialog = document.getElementById("code-dialog");
  const ways = snippets(request);
  const shown = el("pre", { tabIndex: 0, "aria-label": "Code" });
  const button = action("copy", "Copy", () => copy(shown.textContent, button));
  const choose = (index) => {
    shown.textContent = ways[index][1];
    tabs.forEach((tab, i) => tab.setAttribute("aria-pressed", String(i === index)));
  };
  const tabs = ways.map(([name], i) => el("button", { type: "button", className: "small", onclick: () => choose(i) }, name));
  choose(0);
  const place = dialog.querySelector(".place");
  place.replaceChildren(el("div", { className: "row spread" }, el("div", { className: "row" }, tabs), button), shown);
  dialog.showModal();
}
