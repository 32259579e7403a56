"""polytask ask: a checkpoint, a task and an example become answers."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from polytask import runtime
from polytask.errors import TaskError
from polytask.model import Model
from polytask.registry import nearest
from polytask.tasks import TASKS, get_task
from polytask.tasks.task import Task


def open_model(path: str) -> Model:
    """The model of a checkpoint folder, on the best device there is. Raises CheckpointError."""
    runtime.set_threads()
    return Model.load(path)


def find_task(model: str, name: str) -> Task:
    """A builtin task, one of a YAML file, or one of the user's own that the model was trained on. Raises TaskError."""
    if name in TASKS or name.endswith((".yaml", ".yml")):
        return get_task(name)
    own = {file.stem: file for folder in (Path(model), Path(model) / "model") for file in folder.glob("tasks/*.yaml")}
    if name in own:
        return get_task(own[name])
    raise TaskError(f"Unknown task '{name}': {nearest(name, [*TASKS, *own])}")
