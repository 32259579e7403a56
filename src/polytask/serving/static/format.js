// The form that an answer is held to: text, JSON, or JSON after a schema that is pasted in.

import { el } from "./element.js";

const FORMS = { text: "Text", json_object: "JSON", json_schema: "JSON after a schema" };
const SAMPLE = '{"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}';

/** A control {element, format(), complete()}; `format` is the API's response_format, undefined for plain text. */
export function answerFormat() {
  const kind = el(
    "select",
    { id: "format", onchange: () => show() },
    Object.entries(FORMS).map(([value, label]) => el("option", { value }, label)),
  );
  const schema = el("textarea", {
    id: "schema", "aria-label": "JSON schema", className: "mono", rows: 5, placeholder: SAMPLE, spellcheck: false,
    oninput: () => complain(""),
  });
  const complaint = el("p", { className: "complaint", role: "alert" });
  const place = el("div", { hidden: true }, schema, complaint);
  const element = el("div", { className: "format" }, el("label", { htmlFor: "format" }, "Answer"), kind, place);

  function show() {
    place.hidden = kind.value !== "json_schema";
    element.classList.toggle("open", !place.hidden);
    complain("");
  }

  function complain(told) {
    complaint.textContent = told;
    told ? schema.setAttribute("aria-invalid", "true") : schema.removeAttribute("aria-invalid");
  }

  function format() {
    if (kind.value === "text") return undefined;
    if (kind.value === "json_object") return { type: kind.value };
    return { type: kind.value, json_schema: { name: "answer", schema: JSON.parse(schema.value) } };
  }

  /** Can it be sent? Says where the schema is no JSON. */
  function complete() {
    try {
      const schema = format()?.json_schema?.schema ?? {};
      if (typeof schema !== "object") throw new Error("it is no object");
      return true;
    } catch (error) {
      complain(schema.value.trim() ? `The schema is no JSON: ${error.message}.` : "Paste a JSON schema here.");
      schema.focus();
      return false;
    }
  }

  return { element, format, complete };
}
