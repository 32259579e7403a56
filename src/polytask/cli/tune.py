"""polytask tune MODEL: a trained model learns from one's own file."""

from pathlib import Path
from typing import Annotated

import typer

from polytask.cli.ask import MODEL
from polytask.cli.command import pairs

TASK = Annotated[str, typer.Option(help="The task's name, or a YAML file with your own.", show_default=False)]
DATA = Annotated[str, typer.Option(help="A file, a folder, a glob, or hub:owner/name.", show_default=False)]
COLUMNS = Annotated[
    list[str] | None,
    typer.Option(help="The task's field = the file's column: source=en target=de ...", show_default=False),
]
FIELDS = Annotated[
    list[str] | None, typer.Option("--field", help="A field that all rows share: target_lang=de.", show_default=False)
]


def tune(
    model: MODEL,
    task: TASK,
    data: DATA,
    columns: COLUMNS = None,
    field: FIELDS = None,
    lora: Annotated[bool, typer.Option("--lora", help="Train small adapters and leave the model as it is.")] = False,
    rank: Annotated[int, typer.Option(help="Rank of the adapters.")] = 16,
    merge: Annotated[bool, typer.Option("--merge", help="Add the adapters to the weights at the end.")] = False,
    steps: Annotated[int | None, typer.Option(help="Training steps; else --epochs says.", show_default=False)] = None,
    epochs: Annotated[float, typer.Option(help="How often to go through the file.")] = 3.0,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/MODEL-TASK where not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in that folder stopped.")] = False,
) -> None:
    """Tune a model on your own examples of a task."""
    from polytask.run.ending import print_ending
    from polytask.run.tune import Tuning
    from polytask.run.tune import tune as run_tune

    wish = Tuning(lora=lora, rank=rank, merge=merge, steps=steps, epochs=epochs, lr=lr)
    named, shared = pairs(columns or [], "--columns"), pairs(field or [], "--field")
    raise typer.Exit(print_ending(run_tune(model, task, data, named, shared, wish, out=out, resume=resume)))
