"""polytask ask: a checkpoint, a task and an example become answers."""

from polytask import runtime
from polytask.model import Model


def open_model(path: str) -> Model:
    """The model of a checkpoint folder, on the best device there is. Raises CheckpointError."""
    runtime.set_threads()
    return Model.load(path)
