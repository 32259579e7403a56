// The dialog that shows a request as code, with the pictures that the code reads.

import { snippets } from "./code.js";
import { action, copy, el } from "./element.js";

/** Shows a request {path, body, files, pictures} in the ways that there are to write it. */
export function showCode(request) {
  const dialog = document.getElementById("code-dialog");
  const names = named(request.pictures);
  const ways = snippets(request, names);
  const shown = el("pre", { tabIndex: 0, "aria-label": "Code" });
  const button = action("copy", "Copy", () => copy(shown.textContent, button));
  const choose = (index) => {
    shown.textContent = ways[index][1];
    tabs.forEach((tab, i) => tab.setAttribute("aria-pressed", String(i === index)));
  };
  const tabs = ways.map(([name], i) => el("button", { type: "button", className: "small", onclick: () => choose(i) }, name));
  choose(0);
  const link = ([href, name]) => el("a", { href, download: name }, name);
  const files = names.size ? el("p", { className: "help row" }, "It reads these files:", [...names].map(link)) : [];
  const row = el("div", { className: "row spread" }, el("div", { className: "row" }, tabs), button);
  dialog.querySelector(".place").replaceChildren(...[row, shown, files].flat());
  dialog.showModal();
}

/** A short name for each of the pictures, by its URL. */
function named(pictures) {
  const names = new Map();
  const kind = (picture) => picture.url.slice("data:image/".length).split(";")[0];
  const mask = (picture) => picture.painted; // a picture that is chosen can have any name
  const several = pictures.filter((picture) => !mask(picture)).length > 1;
  for (const picture of pictures) {
    if (names.has(picture.url)) continue;
    names.set(picture.url, mask(picture) ? picture.name : `picture${several ? `-${names.size + 1}` : ""}.${kind(picture)}`);
  }
  return names;
}
