"""polytask train RECIPE: from a recipe to a model."""

from pathlib import Path
from typing import Annotated

import typer

RECIPE = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name or a YAML file.", show_default=False)]
SET = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change the recipe: training.steps=500 model.depth=4 ...", show_default=False),
]
DATA_DIR = Annotated[
    Path | None, typer.Option(help="Where the recipe's relative data paths begin.", show_default=False)
]


def train(
    recipe: RECIPE,
    changes: SET = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/NAME where not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in that folder stopped.")] = False,
    data_dir: DATA_DIR = None,
) -> None:
    """Train a model as a recipe says. Ctrl-C saves and stops; --resume goes on exactly there."""
    from polytask.run.ending import print_ending
    from polytask.run.train import train as run_train

    raise typer.Exit(print_ending(run_train(recipe, changes or [], out=out, resume=resume, data_dir=data_dir)))
