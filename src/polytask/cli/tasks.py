"""polytask tasks [NAME]: which tasks there are, and what fields and metrics they have."""

from typing import Annotated

import typer

from polytask.cli.command import console


def tasks(
    name: Annotated[str | None, typer.Argument(help="One task, or the path of a YAML file with your own.")] = None,
) -> None:
    """List the tasks with their fields and metrics."""
    from rich.table import Table

    from polytask.tasks import TASKS, get_task

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("task", "field", "", "meaning", "metrics"):
        table.add_column(column)
    for task in [get_task(name)] if name else [get_task(known) for known in TASKS]:
        metrics = ", ".join(task.metric_names)
        for number, (field, about) in enumerate(task.fields.items()):
            first = number == 0
            kind = "" if about.required else "optional"
            table.add_row(task.name if first else "", field, kind, about.help, metrics if first else "")
    out = console()
    out.print(table)
    out.print("\nAsk one:  polytask ask MODEL TASK --FIELD value ...")
