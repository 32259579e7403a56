"""Calls of tools in what a model writes. Each family has a form of its own, which its chat template gives away."""

import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from polytask.tokenizers.text import TextTokenizer


@dataclass(frozen=True)
class Form:
    """hint: what a template with this form holds. marks: what a call begins with; `first`: only at the very beginning
    of an answer. read: the calls in a text, (name, arguments) each; ValueError where there is none."""

    hint: re.Pattern[str]
    marks: tuple[str, ...]
    first: bool
    read: Callable[[str], list[tuple[str, Any]]]


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
    Form(re.compile(r"<tool_call>"), ("<tool_call>",), False, _hermes),
    Form(re.compile(r"\[TOOL_CALLS\]"), ("[TOOL_CALLS]", "[{"), True, _mistral),
    Form(re.compile(r"<\|python_tag\|>|ipython|\"parameters\":"), ("<|python_tag|>", "{"), True, _llama),
)


def form_of(tokenizer: TextTokenizer) -> Form | None:
    """The form in which this tokenizer's model calls tools, None where its template knows none."""
    source = tokenizer.conventions.template if tokenizer.template is not None else None
    if source is None or not re.search(r"\btools\b", source):
        return None
    return next((form for form in FORMS if form.hint.search(source)), None)


class ToolText:
    """Parts what is shown from what calls tools, in one answer as it is written."""

    def __init__(self, form: Form, tokenizer: TextTokenizer):
        self._form, self._tokenizer = form, tokenizer
        self._held, self._shown, self._calling = "", False, False

    def push(self, text: str) -> str:
        """What may be shown; the beginning of a call, or what may become one, is held."""
        self._held += text
        if self._calling:
            return ""
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

    def finish(self, ids: list[int]) -> tuple[str, list[dict[str, Any]]]:
        """What is still to be shown, and the calls. ids: the whole answer, for marks that text leaves out."""
        held, self._held = self._held, ""
        whole = self._tokenizer.decode(ids, special=True)
        if not any(mark in whole if not self._form.first else whole.lstrip().startswith(mark)
                   for mark in self._form.marks):  # fmt: skip
            return held, []
        try:
            calls = self._form.read(whole)
        except (ValueError, RecursionError):
            return held, []
        return ("", [_call(*one) for one in calls]) if calls else (held, [])

    def _release(self, count: int) -> str:
        released, self._held = self._held[:count], self._held[count:]
        self._shown = self._shown or bool(released)
        return released


def _begun(text: str, marks: tuple[str, ...]) -> int:
    """Characters at the end of a text that may begin a mark."""
    sizes = range(max(map(len, marks)) - 1, 0, -1)
    return next((n for n in sizes if any(len(m) > n and text.endswith(m[:n]) for m in marks)), 0)


def _call(name: str, arguments: Any) -> dict[str, Any]:
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    identity = f"call_{uuid.uuid4().hex[:24]}"
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": written}}
