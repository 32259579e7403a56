"""polytask import and polytask export: models of other projects come in, ours go out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polytask.cli.ask import MODEL
from polytask.cli.command import console

if TYPE_CHECKING:
    from polytask.run.interop import Made

SOURCE = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder as Hugging Face has them, or a model of its hub: owner/name.",
        show_default=False,
    ),
]
OUT = Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.", show_default=False)]


def import_(source: SOURCE, out: OUT) -> None:
    """Make a checkpoint folder from open weights.

    For example:  polytask import openai-community/gpt2 models/gpt2
    """
    from polytask.run.interop import import_model

    _tell(import_model(source, out))


def export(
    model: MODEL,
    out: OUT,
    to: Annotated[str, typer.Option(help="The format: hf, which transformers, vLLM and others load.")] = "hf",
) -> None:
    """Write a model in a format that other tools load.

    For example:  polytask export runs/mine/model --to hf mine-hf
    """
    from polytask.run.interop import export_model

    _tell(export_model(model, to, out))


def _tell(made: "Made") -> None:
    from polytask.run.ending import print_next

    console().print(f"{made.path}: {made.kind}, {made.parameters:,} parameters", markup=False, soft_wrap=True)
    print_next(made.next)
