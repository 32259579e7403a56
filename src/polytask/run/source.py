"""A user's file as a source: which task, which columns, what all rows share."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polytask.data.sources import SourceSpec
from polytask.errors import ConfigError, TaskError
from polytask.registry import nearest
from polytask.tasks import TASKS, get_task
from polytask.tasks.languages import language
from polytask.tasks.task import Task


def find_task(model: str, name: str) -> Task:
    """A builtin task, one of a YAML file, or one of the user's own that the model was trained on. Raises TaskError."""
    if name in TASKS or name.endswith((".yaml", ".yml")):
        return get_task(name)
    own = {file.stem: file for folder in (Path(model), Path(model) / "model") for file in folder.glob("tasks/*.yaml")}
    if name in own:
        return get_task(own[name])
    raise TaskError(f"Unknown task '{name}': {nearest(name, [*TASKS, *own])}")


def task_named(model: str, name: str) -> tuple[Task, str]:
    """(the task, what a recipe calls it): a name, or the path of the YAML file that it is read from."""
    task = find_task(model, name)
    if name.endswith((".yaml", ".yml")):
        return task, str(Path(name).expanduser().resolve())
    own = [file for folder in ("tasks", "model/tasks") for file in (Path(model) / folder).glob(f"{name}.yaml")]
    return task, str(own[0].resolve()) if own else name


def shared_fields(task: Task, columns: Mapping[str, str], fields: Mapping[str, str]) -> dict[str, Any]:
    """`fields` as values, and for a translation the languages where its columns are called by them (source=en)."""
    given = {name: _value(name, value) for name, value in fields.items()}
    if task.name == "translation":
        for side in ("source", "target"):
            lang = f"{side}_lang"
            if side in columns and lang not in {*columns, *given} and _is_language(columns[side]):
                given[lang] = columns[side]
    return given


def source(
    model: str, task_name: str, data: str, columns: Mapping[str, str], fields: Mapping[str, str], **words: Any
) -> SourceSpec:
    """The source to evaluate a model on; `words` are more fields of SourceSpec."""
    task, _ = task_named(model, task_name)
    return SourceSpec(task, data, dict(columns), shared_fields(task, columns, fields), **words)


def _value(name: str, value: str) -> Any:
    if not value.startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ConfigError(f"--field {name}: this is not valid JSON ({error}).") from None


def _is_language(name: str) -> bool:
    try:
        language(name)
    except TaskError:
        return False
    return True
