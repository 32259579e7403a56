"""polytask doctor: what this machine and this installation can do."""

import dataclasses
import json
from typing import Annotated

import typer

from polytask.cli.command import console


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check this machine and this installation."""
    from polytask.run.doctor import facts

    found = facts()
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(fact) for fact in found], indent=1))
        return
    out = console()
    width = max(len(fact.name) for fact in found)
    for fact in found:
        mark = "[green]ok[/]  " if fact.good else "[red]look[/]"
        out.print(f"{mark}  {fact.name:<{width}}  {fact.value}", soft_wrap=True)
        if not fact.good:
            out.print(f"      {'':<{width}}  [yellow]{fact.hint}[/]", soft_wrap=True)
