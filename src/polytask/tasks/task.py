"""What a task is, and the few functions that work on any of them.

A task is defined once and used in four places: training formats its data with `segments`, prompting asks with `prompt`,
evaluation scores with `metrics`, and the server and the command line list its `fields`.
"""

import difflib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, get_args, get_origin, runtime_checkable

from polytask.errors import TaskError
from polytask.registry import nearest
from polytask.tasks.picture import Picture, encoded
from polytask.tasks.segment import TO_DRAW, Segment


@dataclass(frozen=True)
class Field:
    """One field of a task's examples. `type` is str, list[str], list[dict] or Picture; `help` is what users are shown.

    answer: what is learnt from and compared with, which asking does not need.
    unless: another field that may stand in place of this required one.
    """

    type: Any = str
    required: bool = True
    help: str = ""
    answer: bool = False
    unless: str = ""

    def needed(self, given: Container[str]) -> bool:
        """Must it be there, where `given` are the fields that are?"""
        return self.required and self.unless not in given


class Asking(Protocol):
    """What says which fields an example has."""

    @property
    def name(self) -> str: ...

    @property
    def fields(self) -> Mapping[str, Field]: ...


@runtime_checkable
class Task(Asking, Protocol):
    """The protocol of builtin tasks and of those a user writes in YAML."""

    @property
    def metric_names(self) -> tuple[str, ...]: ...

    @property
    def primary(self) -> str:
        """The metric that stands for the task and decides which checkpoint is best; "" where there is none."""
        ...

    def segments(self, example: dict[str, Any]) -> list[Segment]:
        """The example in order; a part that the example lacks (no answer yet) is left out. Raises TaskError."""
        ...

    def choices(self, example: dict[str, Any]) -> list[list[Segment]] | None:
        """The possible answers where they are a given set, to be scored by likelihood; else None."""
        ...

    def parse(self, produced: list[Segment]) -> Any:
        """The answer a user gets, from what the model produced."""
        ...

    def metrics(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Metric name -> value over all examples; answers[i] are the samples for example i.

        A name may come with a signature, a string that says how it was computed ("bleu_signature").
        """
        ...

    def per_example(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> list[float] | None:
        """The primary metric of every example where its mean is the whole, for intervals; else None."""
        ...


def pictorial(task: Task) -> bool:
    """Whether a task is nothing without pictures, to look at or to draw."""
    return any(field.type is Picture and (field.required or field.answer) for field in task.fields.values())


def looks(task: Task) -> bool:
    """Whether a task cannot be asked without a picture."""
    return any(field.type is Picture and field.required and not field.answer for field in task.fields.values())


def check(task: Asking, example: Mapping[str, Any]) -> dict[str, Any]:
    """The example with the task's fields alone; None counts as absent and a lone string as a list where one is due.

    Other columns are dropped, unless one looks like a misspelt field. Raises TaskError.
    """
    if not isinstance(example, Mapping):
        raise TaskError(f"Task '{task.name}': an example is a mapping of fields to values, not {_kind(example)}.")
    fields = task.fields
    given = {name: value for name, value in example.items() if value is not None}
    if any(field.needed(given) and name not in given for name, field in fields.items()):
        missing = [name for name, field in fields.items() if field.needed(given) and name not in given]
        raise TaskError(
            f"Task '{task.name}': {_named(missing)} missing. It needs: {_list(n for n in fields if fields[n].required)}"
            f" (optional: {_list(n for n in fields if not fields[n].required)}); the example has: {_list(given)}."
        )
    others = given.keys() - fields.keys()
    if others and (absent := tuple(name for name in fields if name not in given)):
        for name in others:
            if _misspelt(str(name), absent):
                raise TaskError(f"Task '{task.name}' has no field '{name}': {nearest(str(name), absent)}")
    return {name: _typed(task, name, field.type, given[name]) for name, field in fields.items() if name in given}


@lru_cache(maxsize=4096)
def _misspelt(name: str, fields: tuple[str, ...]) -> bool:
    """Is a column's name nearly that of a field? A file has the same columns in every row, hence the memory."""
    return bool(difflib.get_close_matches(name, fields, n=1, cutoff=0.8))


def prompt(task: Task, example: Mapping[str, Any], shots: Sequence[Mapping[str, Any]] = ()) -> list[Segment]:
    """What the model is asked: the segments of the shots, answers included, then the example's without its last target.

    Where the task draws, a picture to be drawn comes last. A conversation that ends with a user's turn is kept whole.
    An example that is nothing but a target (a document of the `text` task) is kept too: it is to be continued, and
    stays a target to say so. Raises TaskError.
    """
    given: list[Segment] = []
    for number, shot in enumerate(shots):
        segments = task.segments(check(task, shot))
        if not any(segment.target for segment in segments):
            raise TaskError(f"Task '{task.name}': example {number + 1} of those to learn from has no answer.")
        given += segments
    query = task.segments(check(task, example))
    if len(query) > 1 and query[-1].target:
        query = query[:-1]
    return [*given, *query, *([TO_DRAW] if draws(task) else [])]


def draws(task: Task) -> bool:
    """Whether the task's answer is a picture."""
    return any(field.answer and field.type is Picture for field in task.fields.values())


def _typed(task: Asking, name: str, wanted: Any, value: Any) -> Any:
    if wanted is str and type(value) is str:
        return value
    if wanted is Picture:
        try:
            return encoded(value)
        except TaskError as error:
            raise TaskError(f"Task '{task.name}': field '{name}': {error}") from None
    if get_origin(wanted) is list:
        if isinstance(value, str):
            value = [value]
        elif isinstance(value, Mapping) and isinstance(value.get("text"), list):
            value = value["text"]  # SQuAD's answers and ARC's choices come with offsets or letters beside the texts
        (item,) = get_args(wanted)
        if isinstance(value, list | tuple) and all(isinstance(part, item) for part in value):
            return list(value)
        raise TaskError(f"Task '{task.name}': field '{name}' is a list of {_TYPES[item]}s, not {_kind(value)}.")
    if not isinstance(value, wanted):
        raise TaskError(f"Task '{task.name}': field '{name}' is {_article(_TYPES[wanted])}, not {_kind(value)}.")
    return value


_TYPES: dict[Any, str] = {str: "string", dict: "mapping", int: "integer", float: "number"}


def _kind(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "a list of " + (" and ".join(sorted({type(part).__name__ for part in value})) or "nothing")
    return f"{type(value).__name__} ({str(value)[:40]!r})"


def _article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _named(names: list[str]) -> str:
    quoted = ", ".join(f"'{name}'" for name in names)
    return f"field {quoted} is" if len(names) == 1 else f"fields {quoted} are"


def _list(names: Any) -> str:
    return ", ".join(map(str, names)) or "none"
