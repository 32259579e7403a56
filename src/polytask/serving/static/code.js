// A request as code: curl, and Python with the openai client or requests. The key itself is never shown.

import { apiKey, url } from "./api.js";

const OPENAI = new Set([
  "model", "messages", "temperature", "top_p", "max_tokens", "seed", "stop", "presence_penalty", "frequency_penalty",
  "logprobs", "top_logprobs", "response_format",
]); // what the client takes by name of a conversation; the rest is extra_body
const METHODS = {
  "chat/completions": { call: "chat.completions.create", takes: OPENAI },
  "images/generations": { call: "images.generate", takes: new Set(["model", "prompt", "n"]) },
  "images/edits": { call: "images.edit", takes: new Set(["model", "prompt", "n"]) },
  "images/variations": { call: "images.create_variation", takes: new Set(["model", "n"]) },
};
const ENCODE = [
  "def picture(name):",
  "    data = base64.b64encode(Path(name).read_bytes()).decode()",
  '    return f"data:image/{Path(name).suffix[1:]};base64,{data}"',
  "",
];
const SAVE = [
  "for number, picture in enumerate(answer.data, 1):",
  '    Path(f"drawn-{number}.png").write_bytes(base64.b64decode(picture.b64_json))',
];

/** The ways to write a request, as [name, code] pairs; `names` are the files that the code reads, by their URLs. */
export function snippets(request, names) {
  const method = METHODS[request.path];
  const python = method ? ["Python, openai", openai(request, method, names)] : ["Python, requests", plain(request, names)];
  return [["curl", request.files ? curlForm(request, names) : curl(request, names)], python];
}

function curl({ path, body }, names) {
  const quoted = `'${shell(JSON.stringify(body, null, 2))}'`;
  const read = (all, [found, name]) =>
    all.replaceAll(found, `${found.split(",")[0]},'"$(base64 < ${name} | tr -d '\\n')"'`);
  const data = names.size ? `@- <<< ${[...names].reduce(read, quoted)}` : quoted;
  return `curl ${url(path)} \\\n  -H "Content-Type: application/json" \\\n${header()}  -d ${data}`;
}

function curlForm({ path, body, files }, names) {
  const words = Object.entries(body).map(([name, value]) => `  --form-string '${name}=${shell(String(value))}'`);
  const given = Object.entries(files).map(([name, picture]) => `  -F ${name}=@${names.get(picture.url)}`);
  return `curl ${url(path)} \\\n${header()}${[...words, ...given].join(" \\\n")}`;
}

const shell = (text) => text.replaceAll("'", "'\\''");
const header = () => (apiKey.get() ? '  -H "Authorization: Bearer $POLYTASK_API_KEY" \\\n' : "");

function openai({ path, body, files = {} }, { call, takes }, names) {
  const draws = path.startsWith("images/");
  const named = Object.entries(body).filter(([name]) => takes.has(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !takes.has(name)));
  const lines = named.map(([name, value]) => `    ${name}=${literal(value, "    ", names)},`);
  lines.push(...Object.entries(files).map(([name, picture]) => `    ${name}=Path("${names.get(picture.url)}"),`));
  if (Object.keys(extra).length) lines.push(`    extra_body=${literal(extra, "    ", names)},`);
  const key = apiKey.get() ? 'os.environ["POLYTASK_API_KEY"]' : '"none"';
  const encodes = !draws && names.size > 0;
  return [
    ...imports(draws || encodes),
    "from openai import OpenAI",
    "",
    ...(encodes ? ["", ...ENCODE, ""] : []),
    `client = OpenAI(base_url="${url(".").replace(/\/$/, "")}", api_key=${key})`,
    `answer = client.${call}(`,
    ...lines,
    ")",
    ...(draws ? SAVE : ["print(answer.choices[0].message.content)"]),
  ].join("\n");
}

function plain({ path, body }, names) {
  const key = apiKey.get() ? '    headers={"Authorization": "Bearer " + os.environ["POLYTASK_API_KEY"]},\n' : "";
  return [
    ...imports(names.size > 0),
    "import requests",
    "",
    ...(names.size ? ["", ...ENCODE, ""] : []),
    "response = requests.post(",
    `    "${url(path)}",`,
    `${key}    json=${literal(body, "    ", names)},`,
    ")",
    "response.raise_for_status()",
    'print(response.json()["answers"][0]["answer"])',
  ].join("\n");
}

function imports(files) {
  const found = [...(files ? ["import base64"] : []), ...(apiKey.get() ? ["import os"] : [])];
  if (files) found.push("from pathlib import Path");
  return found.length ? [...found, ""] : [];
}

/** A value as Python writes it. JSON's strings are Python's too; a picture is read from its file. */
function literal(value, indent, names) {
  const inner = `${indent}    `;
  if (names.has(value)) return `picture("${names.get(value)}")`;
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const list = Array.isArray(value);
  const parts = list
    ? value.map((part) => literal(part, inner, names))
    : Object.entries(value).map(([name, part]) => `${JSON.stringify(name)}: ${literal(part, inner, names)}`);
  const [open, close] = list ? "[]" : "{}";
  const short = `${open}${parts.join(", ")}${close}`;
  if (short.length <= 72 && !short.includes("\n")) return short;
  return `${open}\n${parts.map((part) => `${inner}${part},`).join("\n")}\n${indent}${close}`;
}
