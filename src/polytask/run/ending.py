"""What a long job prints last: how it went, and the next commands."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from polytask.interop import networks
from polytask.interop.folder import read_folder
from polytask.models.classifier import ClassifierConfig
from polytask.models.diffusion import DiffusionConfig
from polytask.models.dvae import AutoencoderConfig
from polytask.training.callbacks import Result, Stopped

STOPPED = 130  # exit status of a run that was interrupted, so that what a shell does after it (&&) does not begin


def next_commands(model: Path, tasks: Iterable[str] = ()) -> list[str]:
    """Commands for a model: ask it, evaluate it, serve it, look at it."""
    folder = shlex.quote(str(model))
    task = next(iter(tasks), "translation")
    return [
        f"polytask ask {folder} {task} {_fields(model, task)}",
        f"polytask eval {folder} --task {task} --data FILE",
        f"polytask serve {folder}",
        f"polytask show {folder}",
    ]


def _picturing(model: Path) -> list[str]:
    """Commands for a network for pictures; those that draw nothing by themselves are looked at."""
    folder, found = shlex.quote(str(model)), networks.read(model, check=False)
    config, places = found.config, [one.get("from") for one in found.about.get("data", ())]
    data = "blocksworld" if "blocksworld" in places else "FILE"  # only a world that is generated can be named here
    drawn = [
        f"polytask draw {folder} PROMPT --n 4 --out drawings",
        f"polytask eval {folder} --task drawing --data {data}",
    ]
    if isinstance(config, DiffusionConfig) and config.changes:
        drawn = [
            f"polytask edit {folder} PICTURE INSTRUCTION --n 4 --out drawings",
            f"polytask eval {folder} --task editing --data {data}",
        ]
    told = [f"polytask classify {folder} --image PICTURE", f"polytask eval {folder} --task classification --data FILE"]
    kinds = {DiffusionConfig: drawn, ClassifierConfig: told, AutoencoderConfig: drawn[1:]}
    return [*kinds.get(type(config), []), f"polytask show {folder}"]


def _fields(model: Path, task: str) -> str:
    from polytask.run.source import find_task

    return " ".join(f"--{name} ..." for name, field in find_task(str(model), task).fields.items() if field.required)


def print_ending(result: Result) -> int:
    """Prints how a run ended and what to do next; the exit status, which is that of Ctrl-C where it was stopped."""
    console = Console(highlight=False)
    console.print(result.message, markup=False, soft_wrap=True)
    if isinstance(result, Stopped):
        return STOPPED
    if networks.is_drawing(result.model):
        print_next(_picturing(result.model), console)
        return 0
    tasks = read_folder(result.model, check=False).about.get("tasks", ())
    print_next(next_commands(result.model, tasks), console)
    return 0


def print_next(commands: list[str], console: Console | None = None) -> None:
    """Prints commands to go on with."""
    console = console or Console(highlight=False)
    console.print("\nNext:")
    for command in commands:
        console.print(f"  {command}", markup=False, soft_wrap=True)
