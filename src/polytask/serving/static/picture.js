// Pictures of a person or a model: read as data URLs with their sizes, and made small enough to be sent.

import { el } from "./element.js";

const SENT = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"]; // what every server here reads
const MOST = 1024; // pixels of a side; no model reads more, and a body has its limit
const FEW = 128; // pixels that are wide enough on the page to be seen one by one

/** The picture {url, name, width, height} of a file; `url` holds its bytes. Throws where the browser shows no such. */
export async function readPicture(file) {
  const image = await decoded(await dataUrl(file), file.name);
  const scale = Math.min(1, MOST / Math.max(image.naturalWidth, image.naturalHeight));
  const same = scale === 1 && SENT.includes(file.type);
  const width = Math.max(1, Math.round(image.naturalWidth * scale));
  const height = Math.max(1, Math.round(image.naturalHeight * scale));
  const url = same ? image.src : redrawn(image, width, height, file.type);
  return { url, name: file.name, width, height };
}

/** The picture of an answer's item, {b64_json}. */
export async function answeredPicture({ b64_json: bytes }, name) {
  const image = await decoded(`data:image/png;base64,${bytes}`, name);
  return { url: image.src, name, width: image.naturalWidth, height: image.naturalHeight };
}

/** Its bytes as a file, as forms send them. */
export function asFile({ url, name }) {
  const [head, data] = url.split(",");
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  return new File([bytes], name, { type: head.slice("data:".length).split(";")[0] });
}

/** It on the page: small ones with their pixels as they are, large ones smoothly. */
export function shown({ url }, alt) {
  const mark = ({ target }) => target.classList.toggle("pixels", target.naturalWidth <= FEW);
  return el("img", { src: url, alt, onload: mark });
}

async function dataUrl(file) {
  const reader = new FileReader();
  await new Promise((done) => {
    reader.onloadend = done;
    reader.readAsDataURL(file);
  });
  if (!reader.result) throw new Error(`${file.name} cannot be read; choose it again.`);
  return reader.result;
}

async function decoded(url, name) {
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    throw new Error(`${name} is no picture that this browser shows; choose a PNG, JPEG, WebP or GIF.`);
  }
  return image;
}

/** A photograph stays one; all else is written without loss. */
function redrawn(image, width, height, type) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, width, height);
  return type === "image/jpeg" ? canvas.toDataURL(type, 0.92) : canvas.toDataURL("image/png");
}
