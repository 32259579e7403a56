"""How models write calls of tools. Each family has a form of its own, which its chat template gives away."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polytask.inference.constrained import Guide
from polytask.serving.refusal import about
from polytask.tokenizers.text import TextTokenizer

# Templates lay calls out as `tojson` writes them, and so they are written.
WRITING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True)
class Frame:
    """How calls are written: `begin`, each between `open` and `close` with its arguments under `key`, `end`."""

    begin: str
    open: str
    key: str
    close: str
    between: str
    end: str


@dataclass(frozen=True)
class Form:
    """hint: what a template with this form holds. marks: what a call begins with; `first`: only at the very beginning
    of an answer. read: the calls in a text, (name, arguments) each; ValueError where there is none."""

    hint: re.Pattern[str]
    marks: tuple[str, ...]
    first: bool
    read: Callable[[str], list[tuple[str, Any]]]
    frame: Frame


def _hermes(text: str) -> list[tuple[str, Any]]:
    return [_named(json.loads(found)) for found in re.findall(r"<tool_call>(.*?)(?:</tool_call>|$)", text, re.DOTALL)]


def _mistral(text: str) -> list[tuple[str, Any]]:
    called, _ = json.JSONDecoder().raw_decode(text.partition("[TOOL_CALLS]")[2].strip() or text.strip())
    return [_named(one) for one in (called if isinstance(called, list) else [called])]


def _llama(text: str) -> list[tuple[str, Any]]:
    left, calls = text.replace("<|python_tag|>", "").strip(), []
    while left:
        called, end = json.JSONDecoder().raw_decode(left)
        calls.append(_named(called))
        left = left[end:].lstrip("; \n")
    return calls


def _named(called: Any) -> tuple[str, Any]:
    if not isinstance(called, dict) or not isinstance(called.get("name"), str):
        raise ValueError("a call is a mapping with a name")
    return called["name"], called.get("arguments", called.get("parameters", {}))


FORMS = (
    Form(re.compile(r"<tool_call>"), ("<tool_call>",), False, _hermes,
         Frame("", "<tool_call>\n", "arguments", "\n</tool_call>", "\n", "")),
    Form(re.compile(r"\[TOOL_CALLS\]"), ("[TOOL_CALLS]", "[{"), True, _mistral,
         Frame("[TOOL_CALLS][", "", "arguments", "", ", ", "]")),
    Form(re.compile(r"<\|python_tag\|>|ipython|\"parameters\":"), ("<|python_tag|>", "{"), True, _llama,
         Frame("", "", "parameters", "", "; ", "")),
)  # fmt: skip


def form_of(tokenizer: TextTokenizer) -> Form | None:
    """The form in which this tokenizer's model calls tools, None where its template knows none."""
    own = tokenizer.conventions
    source = own.tool_template or own.template if tokenizer.template is not None else None
    if source is None or not re.search(r"\btools\b", source):
        return None
    return next((form for form in FORMS if form.hint.search(source)), None)


def calls_only(
    form: Form, tokenizer: TextTokenizer, tools: Sequence[Mapping[str, Any]], several: bool, other: Guide | None = None
) -> Guide:
    """Holds an answer to calls of these tools (name, parameters), or to `other` in their place, which is no grammar.
    Raises Refusal for a broken schema."""
    frame, special = form.frame, {tokenizer.decode([i], special=True): i for i in tokenizer.spelling.special}

    def written(text: str) -> str:
        parts = re.split("|".join(f"({re.escape(mark)})" for mark in special), text) if special else [text]
        return " ".join(f"<[{special[part]}]>" if part in special else json.dumps(part) for part in parts if part)

    objects = []
    for tool in tools:
        parameters = tool.get("parameters") or {"type": "object"}
        with about("messages", guide="tools"):
            Guide.schema(parameters)
        wanted = {"name": {"const": tool["name"]}, frame.key: parameters}
        schema = {"type": "object", "properties": wanted, "required": list(wanted), "additionalProperties": False}
        objects.append(f"tool{len(objects)}: %json {json.dumps(_hoisted(schema, frame.key) | {'x-guidance': WRITING})}")
    names = " | ".join(f"tool{number}" for number in range(len(objects)))
    more = f"({written(frame.between)} call)*" if several else ""
    start = f"start: {written(frame.begin)} call {more} {written(frame.end)}"
    if other is not None:
        start = f"{start} | other"
        objects.append(f"other: {_rule(other)}")
    call = f"call: {written(frame.open)} ({names}) {written(frame.close)}"
    return Guide("lark", "\n".join((start, call, *objects)))


def _rule(guide: Guide) -> str:
    """A schema or a regular expression within a grammar."""
    grammar = guide.grammar()
    schema = grammar.get("json_schema")
    return grammar["lark_grammar"].removeprefix("start: ") if schema is None else f"%json {json.dumps(schema)}"


def _hoisted(schema: dict[str, Any], key: str) -> dict[str, Any]:
    """Definitions of the parameters at the top, where their references look for them."""
    inner = dict(schema["properties"][key])
    found = {name: inner.pop(name) for name in ("$defs", "definitions") if name in inner}
    return {**schema, "properties": {**schema["properties"], key: inner}, **found}
