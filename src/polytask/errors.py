"""Errors that a user can cause and act on.

    Error
    ├── ConfigError       a recipe, an option or a YAML file says something we cannot do
    │   └── TooLong       a text is longer than the model reads
    ├── DataError         a file, a row or a column is not what it should be
    ├── TaskError         an unknown task, a missing field, an answer out of the given choices
    ├── TokenizerError    a tokenizer file is broken or does not belong to the model
    ├── CheckpointError   a checkpoint is missing, damaged or of another kind
    ├── TrainingError     a run cannot go on (NaN, no data, no memory)
    ├── SamplingError     a picture cannot be drawn on (NaN)
    ├── SandboxError      this machine lacks the means to run generated code safely
    └── MissingExtra      an optional library is not installed

The command line prints the sentence and exits with code 2; nothing else about it is special.
"""

from collections.abc import Callable
from typing import Any, NoReturn


class Notice(UserWarning):
    """Something that a user should know and that stops nothing; the command line prints it as a note."""


class Error(Exception):
    """Base of all errors a user can cause: the message says what is wrong, where, and what to do."""


class ConfigError(Error):
    """field: the option, or the field of a request, that is wrong; None where it is not one alone."""

    def __init__(self, message: str = "", field: str | None = None):
        super().__init__(message)
        self.field = field


class TooLong(ConfigError):
    """way: the part of the message that tells what else can be done by who loads the model, and not by a client."""

    def __init__(self, message: str = "", way: str = ""):
        super().__init__(message)
        self.way = way


class DataError(Error):
    pass


class TaskError(Error):
    pass


class TokenizerError(Error):
    pass


class CheckpointError(Error):
    pass


class TrainingError(Error):
    pass


class SamplingError(Error):
    pass


class SandboxError(Error):
    pass


class MissingExtra(Error):
    """Raised where an optional library is used but not installed."""

    def __init__(self, library: str, extra: str):
        install = f"pip install 'polytask[{extra}]'"
        super().__init__(f"This needs {library}, which is not installed. Install it with: {install}")


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


def out_of_memory(error: BaseException) -> bool:
    """torch has a type for GPUs; its CPU allocator says so in words alone, as that type does too."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def cannot(sentence: str) -> Callable[..., NoReturn]:
    """A method of what a model cannot be asked: it raises TaskError with a sentence."""

    def method(*_: Any, **__: Any) -> NoReturn:
        raise TaskError(sentence)

    return method
