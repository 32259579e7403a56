"""polytask eval MODEL: how well a model does a task, with intervals."""

import json
from typing import Annotated

import typer

from polytask.cli.ask import MODEL
from polytask.cli.command import console, pairs
from polytask.cli.tune import COLUMNS, DATA, FIELDS, TASK


def evaluate(
    model: MODEL,
    task: TASK,
    data: DATA,
    columns: COLUMNS = None,
    field: FIELDS = None,
    limit: Annotated[int | None, typer.Option(help="Examples at most.", show_default=False)] = None,
    shots: Annotated[int, typer.Option(help="Worked examples before each question.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Evaluate a model on a file of a task."""
    from polytask.run.evaluate import evaluate as run_evaluate

    named, shared = pairs(columns or [], "--columns"), pairs(field or [], "--field")
    report = run_evaluate(model, task, data, named, shared, limit=limit, shots=shots, quiet=as_json)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), ensure_ascii=False, indent=1))
        return
    out = console()
    for line in report.lines():
        out.print(line, markup=False, soft_wrap=True)
