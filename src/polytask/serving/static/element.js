// Elements without markup: texts stay texts, whatever a model writes.

/** An element with properties (attributes where there is no such property), "on..." listeners and children. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

const SHAPES = {
  send: "M12 20V5M5.5 11.5 12 5l6.5 6.5",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h10v10H9zM15 9V5H5v10h4",
  done: "M5 12.5 10 17.5 19.5 7",
  edit: "M5 19l1-4L16 5l3 3L9 18zM14 7l3 3",
  again: "M19 12a7 7 0 1 1-2.2-5.1M19 4v4h-4",
  code: "M9 7 4 12l5 5M15 7l5 5-5 5",
  fresh: "M12 5v14M5 12h14",
  undo: "M9 6 5 10l4 4M5 10h9a5 5 0 0 1 0 10h-3",
  clear: "M6 7h12M9 7V5h6v2M8 7l1 12h6l1-12",
  remove: "M6 6l12 12M18 6 6 18",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  vary: "M4 8h8v8H4zM15 5h5v5h-5zM15 14h5v5h-5z",
  tell: "M5 6h14M5 11h14M5 16h8",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9h.01",
};

/** A line drawing of 24 units that takes the colour of its text; it says nothing to a screen reader. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(space, "svg");
  for (const [attribute, value] of [["viewBox", "0 0 24 24"], ["aria-hidden", "true"], ["class", "icon"]]) {
    drawing.setAttribute(attribute, value);
  }
  const line = document.createElementNS(space, "path");
  line.setAttribute("d", SHAPES[name]);
  drawing.append(line);
  return drawing;
}

/** A quiet button of an icon and a word. */
export function action(name, label, onclick) {
  return el("button", { type: "button", className: "quiet", onclick }, icon(name), el("span", {}, label));
}

/** Copies a text and says so on the button that was made for it; where there is no clipboard, by the old command. */
export async function copy(text, button) {
  const done = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  if (!done) {
    const before = document.activeElement;
    const area = el("textarea", { value: text, className: "hidden" });
    (button.closest("dialog") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    before?.focus({ preventScroll: true });
  }
  button.replaceChildren(icon("done"), el("span", {}, "Copied"));
  announce("Copied");
  setTimeout(() => button.replaceChildren(icon("copy"), el("span", {}, "Copy")), 1500);
}

/** Tells a screen reader what the eye sees by itself. */
export function announce(text) {
  document.getElementById("status").textContent = text;
}

/** "target_lang" as "Target lang". */
export function title(name) {
  const words = name.replace(/[_-]+/g, " ").trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
}
