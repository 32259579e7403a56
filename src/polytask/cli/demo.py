"""polytask demo: trains a small model on the embedded data within minutes and asks it every task."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Where the model and the report go.")] = Path("demo"),
    steps: Annotated[int | None, typer.Option(help="Training steps.", show_default="the recipe's")] = None,
) -> None:
    """Train a small model here and now, and ask it every task."""
    from polytask.run.demo import demo as run_demo
    from polytask.run.ending import STOPPED

    if run_demo(out, steps) is None:
        raise typer.Exit(STOPPED)
