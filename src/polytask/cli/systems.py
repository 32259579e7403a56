"""polytask systems [show NAME | compare NAME ...]: the systems of the field, published and as built here."""

import json
from typing import Annotated, Any

import typer

from polytask.cli.command import Verb, Verbs, console
from polytask.cli.plan import in_bytes, short
from polytask.cli.show import print_tree

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PRECISION = Annotated[str, typer.Option(help="Of products, of served weights and of the cache.")]

app = typer.Typer(cls=Verbs, help="The systems of the field: counts, costs, what is published.")


@app.callback(invoke_without_command=True)
def systems(context: typer.Context, as_json: JSON = False) -> None:
    """List the systems of the field with their sizes: parameters, paper, what is special."""
    if context.invoked_subcommand is not None:
        return
    from rich.table import Table

    from polytask.models.published import NEAR
    from polytask.run.systems import listing

    rows = listing()
    if as_json:
        return _print_json(rows)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "parameters", "published", "", "year", "paper", "special"):
        table.add_column(
            column, justify="right" if column in ("parameters", "published") else "left", no_wrap=column == "name"
        )
    for before, row in zip([{}, *rows], rows):
        counts = (_count(row["total"]), _short(row["published"]), "*" if row["difference"] else "")
        origin = (str(row["year"]), row["paper"], row["special"])
        same = before.get("special") == row["special"]  # a further size of the same system
        table.add_row(row["name"], *counts, *(("",) * 3 if same else origin))
    out = console()
    out.print(table)
    out.print(f"\n* These counts are more than {NEAR:.0%} apart:")
    for difference, names in _differences(rows).items():
        out.print(f"  {', '.join(names)}: {difference}", soft_wrap=True)
    out.print("\nLook closer:  polytask systems show palm-62b;  polytask systems compare gpt3-175b palm-540b")


@app.command(cls=Verb)
def show(
    name: Annotated[str, typer.Argument(help="SYSTEM-SIZE, as `polytask systems` lists them.")],
    precision: PRECISION = "bfloat16",
    as_json: JSON = False,
) -> None:
    """Show one system: its parts, what it costs to train and to serve, what is published and what is not."""
    from polytask.run.systems import describe

    about = describe(name, precision)
    if as_json:
        return _print_json(about)
    about["year"] = str(about["year"])
    counts = {kind: count for kind, count in about["parameters"].items() if count is not None}
    about["parameters"] = counts or "not public"
    for section, how in (("memory to train", ", AdamW"), ("memory to serve", "")):
        terms = {term: in_bytes(count) for term, count in about.get(section, {}).items()}
        of = (
            "weights alone"
            if "keys and values" not in terms and section == "memory to serve"
            else "one row of the context's length"
        )
        about[section] = terms and {"of": f"{of}, {precision}{how}"} | terms
    for section in ("FLOPs a token", "FLOPs a picture and step"):
        about[section] = {kind: f"{short(flops)}FLOPs" for kind, flops in about.get(section, {}).items()}
    print_tree(console(), about)


@app.command(cls=Verb)
def compare(
    names: Annotated[list[str], typer.Argument(help="Two or more of SYSTEM-SIZE.")],
    precision: PRECISION = "bfloat16",
    as_json: JSON = False,
) -> None:
    """Put systems side by side, a column each."""
    from rich.table import Table

    from polytask.run.systems import compare

    columns = compare(names, precision)
    if as_json:
        return _print_json(columns)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("", *columns):
        table.add_column(head, overflow="fold")
    for label in dict.fromkeys(label for column in columns.values() for label in column):
        cells = [_cell(label, column.get(label)) for column in columns.values()]
        if any(cells):
            table.add_row(label, *cells)
    console().print(table)


def _cell(label: str, value: Any) -> str:
    if value in (None, 0):
        return ""
    if label.startswith("memory"):
        return in_bytes(value)
    if label.startswith("FLOPs"):
        return f"{short(value)}FLOPs"
    if isinstance(value, list):
        return ", ".join("all" if item is None else str(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {cell}" for name, part in value.items() if (cell := _cell(name, part)))
    return f"{value:,}" if type(value) in (int, float) and label != "year" else str(value)


def _differences(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """By reason the rows whose counts differ by it."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if row["difference"]:
            names.setdefault(row["difference"], []).append(row["name"])
    return names


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _short(number: float | None) -> str:
    """A printed count as papers have it, such as 540.35B."""
    if number is None:
        return ""
    size, unit = next(pair for pair in ((1e12, "T"), (1e9, "B"), (1e6, "M")) if number >= pair[0])
    return f"{number / size:.10g}{unit}"


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1))
