"""What all verbs share: options with several values, and errors as one sentence."""

import errno
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from polytask.errors import Error, out_of_memory

SPREADING = ("--set", "--columns", "--where")  # `--set a=1 b=2` means `--set a=1 --set b=2`
LISTS = ("--labels", "--choices")  # the same with any words
OUT_OF_MEMORY = (
    "There is not enough memory. Load the weights with --int8, --int4 or --dtype bfloat16, ask for fewer samples (--n) "
    "or beams, or shorten the text."
)


def spread(args: list[str]) -> list[str]:
    """Repeats an option of SPREADING before each further key=value that follows it, one of LISTS before each word."""
    result: list[str] = []
    option, filled = "", False
    for arg in args:
        if option and filled and not arg.startswith("-") and (option in LISTS or "=" in arg):
            result += [option, arg]
            continue
        if option and not filled:
            filled = True
        else:
            option, filled = (arg if arg in (*SPREADING, *LISTS) else ""), False
        result.append(arg)
    return result


class Verb(TyperCommand):
    """A command whose mistakes end in one sentence on stderr and exit code 2, Ctrl-C in 130."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread(args))

    def invoke(self, ctx: Any) -> Any:
        return _invoke(super().invoke, ctx)


class Verbs(TyperGroup):
    """A group of commands that does something by itself too, and ends as they do."""

    def invoke(self, ctx: Any) -> Any:
        return _invoke(super().invoke, ctx)


def _invoke(invoke: Callable[[Any], Any], ctx: Any) -> Any:
    warnings.showwarning = _warn
    try:
        return invoke(ctx)
    except Error as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        typer.echo(f"Error: {OUT_OF_MEMORY}", err=True)
        raise typer.Exit(2) from None
    except OSError as error:
        settle()
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(0) from None  # the reader of a pipe (head, less) has left
        typer.echo(f"Error: {_disk(error)}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("Stopped.", err=True)
        raise typer.Exit(130) from None


def settle() -> None:
    """Lets go of a standard output that takes nothing: python would complain of what it still holds when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _disk(error: OSError) -> str:
    """What the file system refused, and what to do."""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full. Free some space or choose another place; what was saved before is untouched."
    return f"{where}{error.strerror or error}. Choose another place, or make this one accessible."


def _warn(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
    """A warning of ours is a sentence for the user; others are for those who develop."""
    if category.__module__.startswith("polytask"):
        typer.echo(f"Note: {message}", err=True)


def pairs(given: list[str], option: str) -> dict[str, str]:
    """name=value words as a mapping. Raises ConfigError where one has no "=", and for a name that is given twice."""
    from polytask.errors import ConfigError

    found: dict[str, str] = {}
    for word in given:
        name, sign, value = word.partition("=")
        if not sign:
            raise ConfigError(f"{option}: '{word}' is not of the form name=value.")
        if name in found:
            raise ConfigError(f"{option}: '{name}' is given twice; give each name once.")
        found[name] = value
    return found


def console(stderr: bool = False) -> Any:
    """A rich console; one that writes to a pipe is plain and does not break lines at 80 columns."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=max(made.width, 160))
