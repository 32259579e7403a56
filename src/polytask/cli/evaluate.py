"""polytask eval MODEL: how well a model does a task, with intervals."""

import json
from typing import Annotated, Any

import typer

from polytask.cli.ask import MODEL
from polytask.cli.command import console, pairs
from polytask.cli.draw import CANDIDATES, CLIP, GUIDANCE, PICTURE_GUIDANCE, SAMPLER, STEPS
from polytask.cli.sampling import with_sampling
from polytask.cli.tune import COLUMNS, DATA, FIELDS, TASK

TEMPLATE = Annotated[
    list[str] | None,
    typer.Option(help="Of a CLIP: a text with {} for the label; several are averaged; or: published."),
]
JUDGE = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER|pixels",
        help="Compare drawings with real pictures: by the features of a classifier or a CLIP; or by pixels, what a "
        "network that enlarges makes of smaller copies, with bits per dimension where it learned its variance (an "
        "autoencoder is judged so in any case).",
    ),
]


@with_sampling
def evaluate(
    model: MODEL,
    task: TASK,
    data: DATA,
    columns: COLUMNS = None,
    field: FIELDS = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Only rows with this value in a column: lang=de ...", show_default=False)
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Of a folder or a data set: test (where there is one), validation, train; of blocksworld also "
            "compositional.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Examples at most.", show_default=False)] = None,
    shots: Annotated[int, typer.Option(help="Worked examples before each question.")] = 0,
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="Run programs (task code) even where this machine cannot hold them in.")
    ] = False,
    steps: STEPS = None,
    guidance: GUIDANCE = None,
    picture_guidance: PICTURE_GUIDANCE = None,
    sampler: SAMPLER = None,
    candidates: CANDIDATES = None,
    clip: CLIP = None,
    template: TEMPLATE = None,
    judge: JUDGE = None,
    wish: Any = None,
) -> None:
    """Evaluate a model on a file of a task."""
    from polytask.run.evaluate import evaluate as run_evaluate

    drawing = {
        "steps": steps,
        "guidance": guidance,
        "picture_guidance": picture_guidance,
        "sampler": sampler,
        "candidates": candidates,
        "clip": clip,
    }
    named, shared = pairs(columns or [], "--columns"), pairs(field or [], "--field")
    report = run_evaluate(
        model, task, data, named, shared, where=pairs(where or [], "--where"), split=split, limit=limit,
        shots=shots, unsafe=unsafe, sampling=wish.sampling, loading=wish.loading, quiet=wish.as_json,
        drawing={name: value for name, value in drawing.items() if value is not None}, templates=template,
        judge=judge,
    )  # fmt: skip
    if wish.as_json:
        typer.echo(json.dumps(report.to_dict(), ensure_ascii=False, indent=1))
        return
    out = console()
    for line in report.lines():
        out.print(line, markup=False, soft_wrap=True)
