"""polytask ask MODEL TASK --FIELD value: any task, one's own YAML tasks included."""

import json
from typing import Annotated, Any

import typer

from polytask.cli.fields import fields, needed, stdin
from polytask.cli.sampling import Wish, with_sampling

MODEL = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A checkpoint folder, the folder of a run, or owner/name on the hub.", show_default=False
    ),
]


@with_sampling
def ask(
    context: typer.Context,
    model: MODEL,
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="A task's name, or a YAML file with your own.", show_default=False)
    ],
    wish: Any = None,
) -> None:
    """Ask a model any task; the task's fields are options.

    For example:  polytask ask demo/model translation --source "a red cube" --target_lang de

    A picture is given by its file's path, and one that is the answer is written to the current folder.

    A value @FILE is read from a file; the first required field may come by a pipe. `polytask tasks` lists the fields.
    """
    from polytask.run.ask import open_model
    from polytask.run.source import find_task

    chosen = find_task(model, task)
    example = fields(chosen, context.args)
    if needed(chosen, example):
        example = fields(chosen, context.args, stdin())
    reply(open_model(model, **wish.loading), chosen, example, wish)


def reply(model: Any, task: Any, example: dict[str, Any], wish: Wish) -> None:
    """Asks and prints the answer, or each of several samples on a line of its own; of a picture the file's name."""
    from polytask.run.ask import answers, data_url, keep, plain
    from polytask.tasks.task import draws

    given = answers(model, task, example, wish.sampling)
    if wish.as_json:
        said = {"task": task.name, "example": example} | plain(given, model)
        typer.echo(json.dumps(said, ensure_ascii=False, default=data_url))
        return
    for value in (answer.value for answer in given):
        if draws(task):
            typer.echo(keep(value, task.name))
        else:
            typer.echo(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
