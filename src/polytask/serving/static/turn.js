// One turn of a conversation on the page: its text, its footnote, and what can be done with it.

import { errorView, footnote, jsonView, Output, prose } from "./answer.js";
import { action, copy, el } from "./element.js";
import { shown } from "./picture.js";

const SPEAKERS = { user: "You", assistant: "Model" };

/** A turn {role, content, pictures} with its element; `acts` are {edit, again} as far as the turn has them. */
export class Turn {
  constructor(role, content, acts, pictures = []) {
    Object.assign(this, { role, content, acts, pictures });
    this.body = el("div", { className: "text" });
    this.foot = el("div", { className: "foot" });
    this.element = el(
      "article",
      { className: `turn ${role}`, "aria-label": SPEAKERS[role] },
      el("h3", { className: role === "user" ? "hidden" : "speaker" }, SPEAKERS[role]),
      pictures.length ? el("div", { className: "pictures" }, pictures.map((one) => shown(one, `Picture: ${one.name}`))) : null,
      this.body,
      this.foot,
    );
    this.show();
  }

  get message() {
    if (!this.pictures.length) return { role: this.role, content: this.content };
    const parts = this.pictures.map(({ url }) => ({ type: "image_url", image_url: { url } }));
    return { role: this.role, content: [...parts, ...(this.content ? [{ type: "text", text: this.content }] : [])] };
  }

  show() {
    this.body.classList.remove("tokens");
    this.body.replaceChildren(...(this.json ? [jsonView(this.content)] : prose(this.content)));
    this.#actions();
  }

  /** Begins to write: nothing of what stood there stays. json: whether it is to be JSON. */
  begin(json = false) {
    this.content = "";
    this.json = json;
    this.body.classList.remove("tokens");
    this.body.replaceChildren(el("span", { className: "waiting", "aria-hidden": "true" }));
    this.element.setAttribute("aria-busy", "true");
    this.foot.replaceChildren();
    this.output = null;
  }

  add(text, tokens) {
    if (!this.output) {
      this.body.replaceChildren();
      this.output = new Output(this.body);
    }
    this.output.add(text, tokens);
    this.content = this.output.text;
  }

  /** Ends writing with what is known of the answer, {tokens, seconds, finish}. */
  end(facts) {
    this.body.querySelector(".waiting")?.remove();
    this.output?.end();
    this.element.removeAttribute("aria-busy");
    if (!this.content) this.body.replaceChildren(el("span", { className: "note" }, "The answer is empty."));
    else if (this.json && !this.output.writer) this.body.replaceChildren(jsonView(this.content));
    this.#actions(footnote(facts));
  }

  fail(error, again) {
    this.end({});
    if (!this.content) this.body.replaceChildren();
    this.foot.replaceChildren(errorView(error, again));
  }

  /** The text in a field; `done` gets the new one. */
  edit(done) {
    const field = el("textarea", { value: this.content, rows: 3, "aria-label": `Edit: ${SPEAKERS[this.role]}` });
    const save = () => done(field.value);
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.show();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
    });
    this.body.replaceChildren(field);
    this.foot.replaceChildren(
      el("button", { type: "button", className: "small strong", onclick: save }, this.role === "user" ? "Send" : "Save"),
      el("button", { type: "button", className: "small", onclick: () => this.show() }, "Cancel"),
    );
    field.focus();
  }

  #actions(note = "") {
    const copying = action("copy", "Copy", () => copy(this.content, copying));
    const { edit, again } = this.acts;
    this.foot.replaceChildren(
      el("span", { className: "note" }, note),
      el(
        "span",
        { className: "acts" },
        again ? action("again", "Regenerate", () => again(this)) : null,
        edit ? action("edit", "Edit", () => edit(this)) : null,
        copying,
      ),
    );
  }
}
