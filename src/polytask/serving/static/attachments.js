// The pictures of the next turn of a conversation: chosen, dropped or pasted, in a strip above the field.

import { announce, el, icon } from "./element.js";
import { readPicture, shown } from "./picture.js";

/** A button and a strip; `onchange` hears of each picture that comes or goes. */
export function attachments(onchange) {
  let pictures = [];
  const input = el("input", {
    id: "attach", type: "file", accept: "image/*", multiple: true, className: "hidden",
    onchange: () => add([...input.files]),
  });
  const label = el("label", { htmlFor: "attach", className: "attach", title: "Attach a picture" }, icon("picture"), el("span", { className: "hidden" }, "Attach a picture"));
  const list = el("ul", { className: "strip", "aria-label": "Attached pictures", hidden: true });
  const complaint = el("p", { className: "complaint", role: "alert" });

  async function add(files) {
    complaint.textContent = "";
    for (const file of files) {
      try {
        const picture = file.url ? file : await readPicture(file);
        pictures.push(picture); // to the list of now: while it was read another may have been taken out
        announce(`${file.name} is attached.`);
      } catch (error) {
        complaint.textContent = error.message;
      }
    }
    input.value = "";
    show();
  }

  function show() {
    list.hidden = !pictures.length;
    list.replaceChildren(...pictures.map(item));
    onchange();
  }

  function item(picture) {
    const remove = () => {
      pictures = pictures.filter((other) => other !== picture);
      show();
      input.focus();
    };
    const cross = el("button", { type: "button", className: "tool", "aria-label": `Remove ${picture.name}`, onclick: remove }, icon("remove"));
    return el("li", {}, shown(picture, picture.name), cross);
  }

  /** What is attached; it is taken out. */
  function take() {
    const taken = pictures;
    pictures = [];
    complaint.textContent = "";
    show();
    return taken;
  }

  return { button: [input, label], strip: el("div", {}, list, complaint), add, take, get all() { return pictures; } };
}
