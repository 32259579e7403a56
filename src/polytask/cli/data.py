"""polytask data show | prepare: the data of a recipe as the model sees it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from polytask.cli.command import Verb, console
from polytask.cli.train import DATA_DIR, RECIPE, SET

if TYPE_CHECKING:
    from rich.table import Table

    from polytask.data.albums import Pictures
    from polytask.data.prepare import Prepared
    from polytask.run.data import Document

app = typer.Typer(help="Look at a recipe's data, or prepare it.", no_args_is_help=True)


@app.command(cls=Verb)
def show(
    recipe: RECIPE,
    changes: SET = None,
    rows: Annotated[int, typer.Option(help="How many rows.", min=1)] = 3,
    step: Annotated[int, typer.Option(help="Of which training step.", min=0)] = 0,
    data_dir: DATA_DIR = None,
) -> None:
    """Print packed rows as the model sees them: what it learns to write, and what it is only given.

    Of data with pictures, the examples of each source with the sizes of their pictures.
    """
    from polytask.run.data import examples_with_pictures, packed_rows

    out = console()
    coloured = out.color_system is not None and not out.no_color
    legend = "[bold green]green: learnt[/]  [dim]grey: given[/]" if coloured else "{{...}}: learnt; the rest: given"
    legend += "; a line each document, its source first\n"
    pictured = examples_with_pictures(recipe, changes or [], rows, data_dir=data_dir)
    if pictured:
        out.print(legend)
    for document in pictured:
        _print_document(out, document, coloured)
    if pictured:
        return
    for number, row in enumerate(packed_rows(recipe, changes or [], rows, step, data_dir=data_dir)):
        if not number:
            out.print(legend)
        head = f"row {number}  {row.tokens} of {row.length} tokens, {row.learnt} learnt"
        out.print(f"[bold]{head}[/]")
        for document in row.documents:
            _print_document(out, document, coloured)
        out.print()


def _print_document(out: Any, document: "Document", coloured: bool) -> None:
    from rich.text import Text

    line = Text().append(f"{document.source}: ", style="cyan" if coloured else "")
    for piece in document.pieces:
        if coloured:
            line.append(piece.text, style="green" if piece.learnt else "dim")
        else:
            line.append(f"{{{{{piece.text}}}}}" if piece.learnt else piece.text)
    out.print(line, soft_wrap=True)


@app.command(cls=Verb)
def prepare(recipe: RECIPE, changes: SET = None, data_dir: DATA_DIR = None) -> None:
    """Put the data of a recipe into the cache, texts tokenized and pictures at their size, and count it."""
    from polytask.data.albums import Pictures
    from polytask.run.data import prepare_recipe

    out, prepared = console(), prepare_recipe(recipe, changes or [], data_dir=data_dir)
    out.print(_pictures(prepared) if isinstance(prepared, Pictures) else _texts(prepared))
    for source in prepared.sources:
        if cleaned := getattr(source, "cleaned", ""):
            out.print(f"\n{source.name}: {cleaned}", markup=False)
    out.print(f"\nNext:  polytask data show {recipe}\n       polytask train {recipe}")


def _table(*columns: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("source")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _texts(prepared: "Prepared") -> "Table":
    table = _table("examples", "held out", "tokens", "learnt", "bytes a token")
    for name, counts in prepared.report().items():
        train, held = counts["train"], counts["validation"]
        ratio = f"{train.bytes / max(1, train.tokens):.2f}"
        share = f"{train.predicted / max(1, train.tokens):.0%}"
        table.add_row(name, f"{train.documents:,}", f"{held.documents:,}", f"{train.tokens:,}", share, ratio)
    return table


def _pictures(prepared: "Pictures") -> "Table":
    table = _table("pictures", "held out", "pixels", "labels")
    for one in prepared.sources:
        labels = len({*one.train.labels.tolist()} - {-1})
        table.add_row(one.name, f"{len(one.train):,}", f"{len(one.validation):,}", str(prepared.size), str(labels))
    return table
