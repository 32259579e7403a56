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
        print_tree(console(), about)


def print_tree(out: Any, about: dict[str, Any], depth: int = 0) -> None:
    """Nested plain data as an indented list; what is empty is left out."""
    from rich.markup import escape

    for name, value in about.items():
        head = f"{'  ' * depth}[bold]{escape(str(name))}[/]"
        if isinstance(value, dict) and value:
            out.print(head)
            print_tree(out, value, depth + 1)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            out.print(head)
            for item in value:
                words = ", ".join(f"{key} {_shown(part)}" for key, part in item.items() if key != "name")
                out.print(f"{'  ' * (depth + 1)}[bold]{escape(str(item.get('name', '')))}[/]  {escape(words)}")
        elif isinstance(value, str) and "\n" in value:
            out.print(f"{head}  [dim]{value.count(chr(10))} lines; print them with --json[/]")
        elif value not in (None, "", [], {}):
            out.print(f"{head}  {escape(_shown(value))}", soft_wrap=True)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
