"""Calls of tools in what a model writes. Each family has a form of its own, which its chat template gives away."""

import json
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
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
    source = tokenizer.conventions.template if tokenizer.template is not None else None
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


@dataclass(frozen=True)
class CallPart:
    """More of the arguments of an answer's call of this number. `id` and `name` come with its first part alone."""

    number: int
    arguments: str
    id: str = ""
    name: str = ""


# The layout that templates show. Calls in another are read when the answer is whole.
HEAD = re.compile(r'([^{"]*)\{\s*"name"\s*:\s*("(?:[^"\\]|\\.){1,200}")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
JSON = frozenset('{}[],:"+-.0123456789 \t\r\n' + "truefalsnEINity")  # what JSON has outside of strings


class Value:
    """Where a JSON object ends that comes in parts; what is none ends where it cannot go on."""

    def __init__(self) -> None:
        self._depth, self._quoted, self._escaped, self.ended = 0, False, False, False

    def take(self, text: str) -> int:
        """How many of these characters are the object's."""
        for place, letter in enumerate(text):
            if self._quoted:
                self._quoted = self._escaped or letter != '"'
                self._escaped = letter == "\\" and not self._escaped
            elif letter == '"':
                self._quoted = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
            self.ended = self._depth == 0 or not (self._quoted or letter in JSON)
            if self.ended:
                return place + (self._depth == 0)
        return len(text)


class ToolText:
    """Parts what is shown from what calls tools, in one answer as it is written.

    several: whether calls after the first count. names: of the tools, where an answer of JSON that looks like a call of
    another is none. As soon as the name of a call is read its arguments are passed on as they come, so that they may
    turn out to be broken.
    """

    def __init__(
        self, form: Form, tokenizer: TextTokenizer, several: bool = True, names: Collection[str] | None = None
    ):
        self._form, self._tokenizer, self._several, self._names = form, tokenizer, several, names
        self._held, self._shown, self._calling = "", False, False
        self._calls = 0
        self._value: Value | None = None  # that is being written

    @property
    def cut(self) -> bool:
        """Whether the answer so far ends within the arguments of a call that counts."""
        return self._value is not None and (self._several or self._calls == 1)

    def push(self, text: str) -> tuple[str, list[CallPart]]:
        """What may be shown, and what is new of calls; the beginning of a call, or what may become one, is held."""
        self._held += text
        shown, parts = "" if self._calling else self._text(), list[CallPart]()
        if self._value is None and "{" not in text:  # with which arguments begin: no text is looked through in vain
            return shown, parts
        while self._calling and (value := self._value or self._opened(parts)):
            size = value.take(self._held)
            parts += [CallPart(self._calls - 1, self._held[:size])] if size else []
            self._held, self._value = self._held[size:], None if value.ended else value
            if not value.ended:
                break
        return shown, self._counted(parts)

    def finish(self, ids: list[int]) -> tuple[str, list[CallPart]]:
        """What is left of both. ids: the whole answer, for marks that text leaves out."""
        held, self._held = self._held, ""
        whole = self._tokenizer.decode(ids, special=True)
        given, first = whole.lstrip() if self._form.first else whole, self._form.first
        marked = any(given.startswith(mark) if first else mark in given for mark in self._form.marks)
        try:
            calls = self._form.read(whole) if marked else []
        except (ValueError, RecursionError):
            calls = []
        if not self._calls and not (calls and all(self._known(name) for name, _ in calls)):
            return held, []
        left = [(name, value) for name, value in calls[self._calls :] if self._known(name)]
        return "", self._counted([self._call(name, _written(value)) for name, value in left])

    def _text(self) -> str:
        if self._form.first and self._shown:
            return self._release(len(self._held))
        text = self._held.lstrip() if self._form.first else self._held
        before = len(self._held) - len(text)
        for mark in self._form.marks:
            place = (0 if text.startswith(mark) else -1) if self._form.first else text.find(mark)
            if place >= 0:
                self._calling = True
                return self._release(before + place) if place else ""
        if self._form.first:
            begun = not text or any(mark.startswith(text) for mark in self._form.marks)
            return "" if begun else self._release(len(self._held))
        return self._release(len(self._held) - _begun(self._held, self._form.marks))

    def _opened(self, parts: list[CallPart]) -> Value | None:
        """The arguments of a call, where one stands next; its name is one of the parts."""
        head, mark = HEAD.match(self._held), self._form.frame.open.strip()
        if head is None or not (
            head[1].rstrip().endswith(mark) if self._calls or not mark else head[1].strip() == mark
        ):
            return None
        with suppress(ValueError):  # a name that is no JSON
            if self._known(name := json.loads(head[2])):
                parts.append(self._call(name, ""))
                self._held = self._held[head.end() :]
                return Value()
        return None

    def _known(self, name: str) -> bool:
        return self._names is None or name in self._names

    def _call(self, name: str, arguments: str) -> CallPart:
        self._calls += 1
        return CallPart(self._calls - 1, arguments, f"call_{uuid.uuid4().hex[:24]}", name)

    def _counted(self, parts: list[CallPart]) -> list[CallPart]:
        return [part for part in parts if self._several or part.number == 0]

    def _release(self, count: int) -> str:
        released, self._held = self._held[:count], self._held[count:]
        self._shown = self._shown or bool(released)
        return released


def _begun(text: str, marks: tuple[str, ...]) -> int:
    """Characters at the end of a text that may begin a mark."""
    sizes = range(max(map(len, marks)) - 1, 0, -1)
    return next((n for n in sizes if any(len(m) > n and text.endswith(m[:n]) for m in marks)), 0)


def _written(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def joined(parts: Iterable[CallPart]) -> list[CallPart]:
    """Whole calls of their parts."""
    calls = list[CallPart]()
    for part in parts:
        if part.number == len(calls):
            calls.append(part)
        else:
            calls[-1] = replace(calls[-1], arguments=calls[-1].arguments + part.arguments)
    return calls
