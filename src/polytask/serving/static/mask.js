// The canvas on which a mask is painted over a picture: by mouse, pen, finger or keys.

import { action, announce, el } from "./element.js";
import { shown } from "./picture.js";
import { Strokes } from "./strokes.js";

const INK = [214, 0, 110, 165]; // seen on any picture, with the picture seen through it
const KEYS = "Arrow keys move the brush, Space paints there, Shift with an arrow paints along, Ctrl + Z takes back.";

/** A field whose value is what is painted; `show` gives it the picture to paint over, null none. */
export function maskField({ id, label, described, onchange }) {
  let strokes = null;
  let at = { x: 0, y: 0 };
  let drawing = false; // does the pointer that is held draw on?
  const under = el("div", { className: "under" });
  const ring = el("span", { className: "ring", "aria-hidden": "true" });
  const canvas = el("canvas", { id, tabIndex: 0, role: "application", "aria-label": label, "aria-describedby": [described, `${id}-keys`, `${id}-share`].filter(Boolean).join(" ") });
  const brush = el("input", { type: "range", min: 2, max: 60, value: 20, "aria-label": "Brush size", oninput: () => move(at) });
  const eraser = el("button", { type: "button", className: "small", "aria-pressed": "false", onclick: toggle }, "Erase");
  const share = el("output", { id: `${id}-share`, className: "note" });
  const undo = action("undo", "Undo", () => change(() => strokes.undo()));
  const clear = action("clear", "Clear", () => change(() => strokes.clear()));
  const board = el("div", { className: "board" }, under, canvas, ring);
  const tools = el("div", { className: "row tools-row" }, el("label", { className: "brush" }, "Brush", brush), eraser, undo, clear);
  const empty = el("p", { className: "note" }, "Choose a picture first; then paint on it.");
  const element = el("div", { className: "mask" }, empty, board, tools, share, el("p", { className: "help keys", id: `${id}-keys` }, KEYS));

  const size = () => Math.max(1, (brush.valueAsNumber / 100) * Math.min(canvas.width, canvas.height));
  const erases = () => eraser.getAttribute("aria-pressed") === "true";
  function toggle() {
    eraser.setAttribute("aria-pressed", String(!erases()));
  }

  function show(picture) {
    drawing = false;
    strokes = picture && new Strokes(picture.width, picture.height);
    board.hidden = tools.hidden = share.hidden = !picture;
    empty.hidden = Boolean(picture);
    if (picture) {
      under.replaceChildren(shown(picture, ""));
      Object.assign(canvas, { width: picture.width, height: picture.height });
      board.style.setProperty("--ratio", String(picture.width / picture.height));
      move({ x: picture.width / 2, y: picture.height / 2 });
    }
    paint();
  }

  /** Whatever else changes what is painted ends the stroke that is being drawn. */
  function change(act) {
    drawing = false;
    act();
    paint();
    onchange();
    announce(share.textContent);
  }

  function paint() {
    const painted = strokes?.share ?? 0;
    if (strokes) canvas.getContext("2d").putImageData(tinted(strokes), 0, 0);
    undo.disabled = !strokes?.done.length;
    clear.disabled = !painted;
    share.textContent = painted ? `${Math.max(1, Math.round(100 * painted))}% of the picture is painted.` : "Nothing is painted yet.";
  }

  function move({ x, y }) {
    at = { x: Math.min(canvas.width, Math.max(0, x)), y: Math.min(canvas.height, Math.max(0, y)) };
    const [width, height] = [canvas.width, canvas.height];
    const places = { "--x": at.x / width, "--y": at.y / height, "--w": size() / width, "--h": size() / height };
    for (const [name, share] of Object.entries(places)) ring.style.setProperty(name, `${100 * share}%`);
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * canvas.width,
      y: ((event.clientY - box.top) / box.height) * canvas.height,
    };
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    strokes.begin(size(), erases());
    drawing = true;
    drag(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drawing && canvas.hasPointerCapture(event.pointerId)) drag(event);
    else move(place(event));
  });
  canvas.addEventListener("pointerup", () => announce(share.textContent));

  function drag(event) {
    const all = event.getCoalescedEvents?.() ?? [];
    for (const { x, y } of (all.length ? all : [event]).map(place)) strokes.to(x, y);
    move(place(event));
    paint();
    onchange();
  }

  canvas.addEventListener("keydown", (event) => {
    const step = Math.max(1, size() / 2);
    const ways = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const way = ways[event.key];
    if (event.key === "z" && (event.ctrlKey || event.metaKey)) {
      if (!undo.disabled) undo.click();
    } else if (event.key === " ") dab(at);
    else if (way) {
      const from = at;
      move({ x: at.x + way[0], y: at.y + way[1] });
      if (event.shiftKey) dab(from, at);
    } else return;
    event.preventDefault();
  });

  /** One stroke through the given places. */
  function dab(...places) {
    change(() => {
      strokes.begin(size(), erases());
      for (const { x, y } of places) strokes.to(x, y);
    });
  }

  show(null);
  const painted = () => Boolean(strokes?.covered.some(Boolean));
  return { element, canvas, show, painted, picture: () => whole(strokes) };
}

function tinted({ width, height, covered }) {
  const image = new ImageData(width, height);
  covered.forEach((one, i) => one && image.data.set(INK, 4 * i));
  return image;
}

/** The mask as OpenAI's API has it: a PNG of the picture's size, transparent where the picture is to be drawn anew. */
function whole({ width, height, covered }) {
  const image = new ImageData(width, height);
  covered.forEach((one, i) => (image.data[4 * i + 3] = one ? 0 : 255));
  const canvas = el("canvas", { width, height });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return { url: canvas.toDataURL("image/png"), name: "mask.png", width, height, painted: true };
}
