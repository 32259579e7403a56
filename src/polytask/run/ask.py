"""polytask ask: a checkpoint, a task and an example become answers."""

from collections.abc import Iterator, Mapping
from typing import Any

from polytask import runtime
from polytask.model import Model
from polytask.tasks import Task


def open_model(path: str, **words: Any) -> Model:
    """The model of a checkpoint folder, on the best device there is; `words` as `Model.load` takes them.

    Raises CheckpointError.
    """
    runtime.prepare()
    return Model.load(path, **words)


def answers(model: Model, task: Task, example: Mapping[str, Any], sampling: Mapping[str, Any]) -> list[Any]:
    """All samples of an answer."""
    if task.name == "text" and not example.get("text"):
        given = model.generate(**sampling)
    else:
        given = model.ask(task, example, **sampling)
    return given if isinstance(given, list) and sampling.get("n", 1) > 1 else [given]


def stream(model: Model, task: str, example: Mapping[str, Any], sampling: Mapping[str, Any]) -> Iterator[str]:
    """An answer as it is written."""
    return model.stream(task, example, **sampling)
