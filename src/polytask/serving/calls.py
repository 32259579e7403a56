"""Calls of tools in what a model writes, read while it is written."""

import json
import re
import uuid
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from polytask.serving.tools import Form
from polytask.tokenizers.text import TextTokenizer


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

    form: None where nothing is a call. several: whether calls after the first count. names: of the tools, where an
    answer of JSON that looks like a call of another is none. As soon as the name of a call is read its arguments are
    passed on as they come, so that they may turn out to be broken.
    """

    def __init__(
        self, form: Form | None, tokenizer: TextTokenizer, several: bool = True, names: Collection[str] | None = None
    ):
        self._form, self._tokenizer, self._several, self._names = form, tokenizer, several, names
        self._held, self._shown, self._calling = "", False, False
        self._calls = 0
        self._value: Value | None = None  # that is being written

    @property
    def cut(self) -> bool:
        """Whether the answer so far ends within the arguments of a call that counts."""
        return self._value is not None and (self._several or self._calls == 1)

    def push(self, text: str, ids: list[int] | None = None) -> tuple[str, list[CallPart]]:
        """What may be shown, and what is new of calls; the beginning of a call, or what may become one, is held.

        ids: with the last text the whole answer, for marks that text leaves out; then nothing is held any more.
        """
        if self._form is None:
            return text, []
        self._held += text
        shown, parts = "" if self._calling else self._text(self._form), list[CallPart]()
        if self._value is not None or "{" in text:  # with which arguments begin: no text is looked through in vain
            self._go_on(self._form, parts)
        if ids is not None:
            shown += self._end(self._form, ids, parts)
        return shown, [part for part in parts if self._several or part.number == 0]

    def _go_on(self, form: Form, parts: list[CallPart]) -> None:
        """Reads what is held of calls, as far as it goes."""
        while self._calling and (value := self._value or self._opened(form, parts)):
            size = value.take(self._held)
            parts += [CallPart(self._calls - 1, self._held[:size])] if size else []
            self._held, self._value = self._held[size:], None if value.ended else value
            if not value.ended:
                break

    def _end(self, form: Form, ids: list[int], parts: list[CallPart]) -> str:
        """What is left to be shown; what is left of calls is one of the parts."""
        held, self._held = self._held, ""
        whole = self._tokenizer.decode(ids, special=True)
        given = whole.lstrip() if form.first else whole
        marked = any(given.startswith(mark) if form.first else mark in given for mark in form.marks)
        try:
            calls = form.read(whole) if marked else []
        except (ValueError, RecursionError):
            calls = []
        if not self._calls and not (calls and all(self._known(name) for name, _ in calls)):
            return held
        parts += [self._call(name, _written(value)) for name, value in calls[self._calls :] if self._known(name)]
        return ""

    def _text(self, form: Form) -> str:
        """What may be shown of what is held, as long as no call has begun."""
        if form.first and self._shown:
            return self._release(len(self._held))
        text = self._held.lstrip() if form.first else self._held
        before = len(self._held) - len(text)
        for mark in form.marks:
            place = (0 if text.startswith(mark) else -1) if form.first else text.find(mark)
            if place >= 0:
                self._calling = True
                return self._release(before + place) if place else ""
        if form.first:
            begun = not text or any(mark.startswith(text) for mark in form.marks)
            return "" if begun else self._release(len(self._held))
        return self._release(len(self._held) - _begun(self._held, form.marks))

    def _opened(self, form: Form, parts: list[CallPart]) -> Value | None:
        """The arguments of a call, where one stands next; its name is one of the parts."""
        if (head := HEAD.match(self._held)) is None:
            return None
        before, mark = head[1].strip(), form.frame.open.strip()
        if not (before.endswith(mark) if self._calls or not mark else before == mark):
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
