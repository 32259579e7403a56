// A picture to choose: by a button, by dropping it anywhere on the panel, or by pasting it.

import { action, announce, el } from "./element.js";
import { readPicture, shown } from "./picture.js";

/** A field whose value is a picture or null; `onchange` hears of each change. */
export function pictureChooser({ id, name, described, onchange }) {
  let picture = null;
  const input = el("input", {
    id, name, type: "file", accept: "image/*", className: "hidden", "aria-describedby": described,
    onchange: () => input.files.length && take(input.files[0]),
  });
  const drop = el("label", { htmlFor: id, className: "drop" }, "Choose a picture", el("small", {}, " drop it here, or paste it"));
  const chosen = el("div", { className: "chosen-picture", hidden: true });
  const complaint = el("p", { className: "complaint", role: "alert" });
  const element = el("div", { className: "chooser" }, input, drop, chosen, complaint);

  /** A file, or a picture that is read already. */
  async function take(given) {
    complaint.textContent = "";
    try {
      set(given.url ? given : await readPicture(given));
      announce(`${picture.name} is chosen.`);
    } catch (error) {
      complaint.textContent = error.message;
    }
    input.value = ""; // so that the same file can be chosen again
  }

  function set(given) {
    picture = given;
    drop.hidden = Boolean(given);
    chosen.hidden = !given;
    if (given) chosen.replaceChildren(...view(given));
    onchange(given);
  }

  function view(given) {
    const other = el("label", { htmlFor: id, className: "small" }, "Another");
    const remove = action("remove", "Remove", () => {
      set(null);
      input.focus();
    });
    return [
      shown(given, `The chosen picture, ${given.name}`),
      el("div", {}, el("p", { className: "note" }, sizes(given)), el("div", { className: "row" }, other, remove)),
    ];
  }

  return { element, input, take, complain: (text) => (complaint.textContent = text), get value() { return picture; } };
}

const sizes = ({ name, width, height }) => `${name} · ${width} × ${height}`;
