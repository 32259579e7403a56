// Pictures of an answer as a grid, each with what can be done with it.

import { action, el, icon } from "./element.js";
import { shown } from "./picture.js";

/** `told` says what picture i shows; `takers` are {label, icon, take(picture)}: where a picture can go on to. */
export function gallery(pictures, told, takers) {
  return el("ul", { className: "gallery" }, pictures.map((picture, i) => tile(picture, told(i), takers)));
}

function tile(picture, told, takers) {
  const { url, name } = picture;
  return el(
    "li",
    {},
    shown(picture, told),
    el(
      "div",
      { className: "row" },
      el("a", { className: "quiet", href: url, download: name, "aria-label": `Download ${name}` }, icon("download"), "Download"),
      takers.map((taker) => action(taker.icon, taker.label, () => taker.take(picture))),
    ),
  );
}

/** "A red circle, left!" as "a-red-circle-left", short enough for a file's name. */
export function slug(text) {
  const words = text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? ["picture"];
  return words.join("-").slice(0, 48).replace(/-$/, "");
}
