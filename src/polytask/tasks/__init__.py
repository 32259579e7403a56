"""Tasks: how an example becomes segments, how produced segments become an answer, and which metrics judge it.

task = get_task("translation")            # or a path of a YAML file
task.segments({"source": "A dog runs.", "target": "Ein Hund rennt.", "target_lang": "de"})
"""

from inspect import signature
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from polytask.errors import TaskError
from polytask.registry import Registry
from polytask.tasks.segment import ROLES, Image, Role, Segment, Text
from polytask.tasks.task import Field, Task, check, prompt

__all__ = ["ROLES", "TASKS", "Field", "Image", "Role", "Segment", "Task", "Text", "check", "get_task", "prompt"]

TASKS = Registry(
    "task",
    {
        "text": "polytask.tasks.builtin.text:TextTask",
        "translation": "polytask.tasks.builtin.translation:Translation",
        "answering": "polytask.tasks.builtin.answering:Answering",
        "summarization": "polytask.tasks.builtin.summarization:Summarization",
        "chat": "polytask.tasks.builtin.chat:Chat",
        "code": "polytask.tasks.builtin.code:Code",
        "classification": "polytask.tasks.builtin.classification:Classification",
        "infilling": "polytask.tasks.builtin.infilling:Infilling",
        "drawing": "polytask.tasks.builtin.drawing:Drawing",
        "captioning": "polytask.tasks.builtin.captioning:Captioning",
        "editing": "polytask.tasks.builtin.editing:Editing",
    },
    TaskError,
)

KINDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}  # of options


def get_task(name: str | Path, **options: object) -> Task:
    """The builtin task of that name, with its options (`labels=[...]` for classification), or the one of a YAML file.

    A name that ends in .yaml or .yml is a path. Raises TaskError with the nearest name, ConfigError for a faulty file.
    """
    if str(name).endswith((".yaml", ".yml")):
        from polytask.tasks.yaml import load_task

        if options:
            raise TaskError(f"{name}: a task file takes no options; write {', '.join(options)} in the file.")
        return load_task(name)
    made: Any = TASKS.get(str(name))
    if not isinstance(made, type):
        return made  # an object that a user has added
    known = signature(made).parameters
    for option, value in options.items():
        if option not in known:
            raise TaskError(f"Task '{name}' has no option '{option}'; it has: {', '.join(known) or 'none'}.")
        if wanted := _unlike(value, known[option].annotation):
            raise TaskError(f"Task '{name}': {option} must be {wanted}, not {value!r}.")
    return made(**options)


def _unlike(value: Any, kind: Any) -> str | None:
    """What an option of this kind must be, where its value is not; of kinds that no builtin task has, nothing."""
    if isinstance(kind, UnionType):
        if value is None:
            return None
        kind = get_args(kind)[0]
    if get_origin(kind) is tuple:
        (each, *_), several = get_args(kind), isinstance(value, list | tuple)
        wrong = not several or any(_unlike(one, each) for one in value)
        return f"a list, each {KINDS[each]}" if each in KINDS and wrong else None
    types = (int, float) if kind is float else kind
    fits = kind not in KINDS or (isinstance(value, types) and (kind is bool or not isinstance(value, bool)))
    return None if fits else KINDS[kind]
