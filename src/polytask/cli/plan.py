"""polytask plan RECIPE: what a run will cost, before it starts."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polytask.cli.command import console
from polytask.cli.train import DATA_DIR, RECIPE, SET

if TYPE_CHECKING:
    from polytask.plan import Plan


def plan(
    recipe: RECIPE,
    changes: SET = None,
    data_dir: DATA_DIR = None,
    measure: Annotated[bool, typer.Option(help="Time a few training steps on this machine.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a run will cost: parameters, FLOPs, memory, time."""
    from polytask.run.plan import plan_recipe

    made = plan_recipe(recipe, changes or [], data_dir=data_dir, measure=measure)
    if as_json:
        typer.echo(json.dumps(made.to_dict(), indent=1))
    else:
        _print(made)


def _print(made: "Plan") -> None:
    from polytask.plan import duration

    out = console()
    out.print(f"[bold]{made.total_parameters:,}[/] parameters")
    out.print(_table(made.parameters, made.total_parameters, lambda count: f"{count:,}"))
    out.print(f"\n[bold]{short(made.flops)}FLOPs[/] = {made.tokens:,} {made.unit} x {short(made.flops_per_token)}FLOPs")
    out.print(f"\n[bold]{in_bytes(made.peak_bytes)}[/] of memory at the peak, beside python and torch")
    out.print(_table(made.memory, made.peak_bytes, in_bytes))
    if made.rate:
        rate = f"{made.rate / 1e9:,.0f} GFLOP/s, measured on {made.measured}"
        out.print(f"\n[bold]{duration(made.seconds)}[/] at {rate}")
    if made.derived:
        out.print("\nderived, not written in the recipe:")
        for item in made.derived:
            out.print(f"  {item.name} = {item.value}  [dim]{item.source}[/]", soft_wrap=True)
    for note in made.notes:
        out.print(f"\n[yellow]{note}[/]", soft_wrap=True)


def _table(parts: Any, total: float, show: Any) -> Any:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_column()
    for name, value in parts.items():
        table.add_row(name, show(value), "█" * round(30 * value / max(1, total)))
    return table


def short(number: float) -> str:
    """Three digits and a letter, to be followed by a unit."""
    for size, unit in ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,.0f} "


def in_bytes(count: float) -> str:
    for size, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 2**10:,.1f} KiB"
