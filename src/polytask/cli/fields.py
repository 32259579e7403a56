"""A task's fields as options: --source "A dog runs." --target_lang de, from a file with @path, or by a pipe."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin

from polytask.errors import DataError, TaskError
from polytask.registry import nearest
from polytask.tasks.picture import Picture, read_file

if TYPE_CHECKING:
    from polytask.tasks.task import Task


def fields(task: "Task", words: Sequence[str], piped: str | None = None) -> dict[str, Any]:
    """The example in `words`; the first required field that they lack is taken from `piped`.

    A list takes several words (--choices red green blue) or JSON, a picture the path of its file. Raises TaskError on
    an unknown option, naming the task's fields, and DataError where a file cannot be read.
    """
    example: dict[str, Any] = {}
    for name, values in _grouped(task, words).items():
        picture = task.fields[name].type is Picture
        example[name] = _value(task, name, values if picture else [_content(value) for value in values])
    lacking = next((n for n in needed(task, example) if task.fields[n].type is not Picture), None)
    if lacking and piped:
        example[lacking] = _value(task, lacking, [piped.removesuffix("\n")])
    return example


def needed(task: "Task", example: Mapping[str, Any]) -> list[str]:
    """The fields without which the task cannot be asked, and that the example lacks."""
    return [name for name, field in task.fields.items() if field.needed(example) and name not in example]


def stdin() -> str | None:
    """What was piped in, or None at a terminal. Raises DataError where it is not UTF-8 text."""
    if sys.stdin is None or sys.stdin.isatty():
        return None
    try:
        text = sys.stdin.read()
        text.encode()  # python lets bytes that are no UTF-8 through as lone surrogates
    except UnicodeError:
        raise DataError("What was piped in is not UTF-8 text; convert it first, as by iconv.") from None
    return text


def _grouped(task: "Task", words: Sequence[str]) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {}
    current: list[str] | None = None
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            current = given.setdefault(_named(task, name), [])
            if equals:
                current.append(value)
        elif current is None:
            raise TaskError(f"'{word}' belongs to no option; task '{task.name}' takes: {_options(task)}.")
        else:
            current.append(word)
    return given


def _named(task: "Task", option: str) -> str:
    name = option.replace("-", "_")
    if name not in task.fields:
        hint = nearest(name, task.fields)
        hint = "" if hint.startswith("there are") else f" {hint}"
        raise TaskError(f"Task '{task.name}' has no option '--{option}':{hint} It takes: {_options(task)}.")
    return name


def _options(task: "Task") -> str:
    return ", ".join(f"--{name}" + ("" if field.needed(()) else " (optional)") for name, field in task.fields.items())


def _value(task: "Task", name: str, values: list[str]) -> Any:
    if get_origin(task.fields[name].type) is not list:
        if len(values) != 1:
            what = "no value" if not values else f"{len(values)} values"
            raise TaskError(f"--{name} has {what}; it takes one. Put quotation marks around a text of several words.")
        return read_file(values[0].removeprefix("@")) if task.fields[name].type is Picture else values[0]
    if len(values) == 1 and values[0].lstrip().startswith("["):
        try:
            return json.loads(values[0])
        except ValueError as error:
            raise TaskError(f"--{name}: this is not valid JSON ({error}).") from None
    return values


def _content(value: str) -> str:
    if not value.startswith("@") or len(value) == 1:
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(f"{value[1:]}: cannot be read ({reason}); a value that begins with @ names a file.") from None


def example_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were given."""
    return {name: value for name, value in given.items() if value is not None and value != []}
