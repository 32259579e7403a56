"""polytask show MODEL: what a checkpoint is."""

import json
from typing import Annotated, Any

import typer

from polytask.cli.ask import MODEL
from polytask.cli.command import console


def show(model: MODEL, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show what a model is made of and what it was trained on."""
    from polytask.run.show import describe

    about = describe(model)
    if as_json:
        typer.echo(json.dumps(about, ensure_ascii=False, indent=1, default=str))
    else:
        _print(console(), about, 0)


def _print(out: Any, about: dict[str, Any], depth: int) -> None:
    from rich.markup import escape

    for name, value in about.items():
        head = f"{'  ' * depth}[bold]{escape(str(name))}[/]"
        if isinstance(value, dict) and value:
            out.print(head)
            _print(out, value, depth + 1)
        elif value not in (None, "", [], {}):
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            shown = f"{shown:,}" if isinstance(shown, int) and not isinstance(shown, bool) else str(shown)
            out.print(f"{head}  {escape(shown)}", soft_wrap=True)
