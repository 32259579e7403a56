// Pictures that are dropped or pasted anywhere on the page reach the panel that is shown, as an event "pictures".

/** Hands pictures or files to an element that listens for them. */
export function hand(panel, pictures) {
  panel.dispatchEvent(new CustomEvent("pictures", { detail: pictures }));
}

/** Office programs copy a picture of a text along with it. A file has its name alone with it, a picture of a page its markup. */
const isText = ({ types }) => ["text/plain", "text/html"].every((type) => types.includes(type));

/** Listens on the whole page; `panel` tells which one is shown. */
export function listenForPictures(panel) {
  const files = (transfer) => [...(transfer?.files ?? [])].filter(({ type }) => type.startsWith("image/"));
  const carries = (event) => event.dataTransfer.types.includes("Files");
  const mark = (on) => document.body.classList.toggle("dropping", on);
  document.addEventListener("paste", (event) => {
    const found = files(event.clipboardData);
    if (!found.length || isText(event.clipboardData)) return;
    event.preventDefault();
    hand(panel(), found);
  });
  document.addEventListener("dragover", (event) => {
    if (!carries(event)) return;
    event.preventDefault(); // else the browser leaves the page for the file
    mark(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? mark(false));
  document.addEventListener("drop", (event) => {
    mark(false);
    if (!carries(event)) return;
    event.preventDefault();
    const found = files(event.dataTransfer);
    if (found.length) hand(panel(), found);
  });
}
