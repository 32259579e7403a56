"""polytask scaling fit | check: predict the loss of a large run from small ones, and hold the prediction to it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from polytask.cli.command import Verb, console
from polytask.cli.train import DATA_DIR, SET

if TYPE_CHECKING:
    from polytask.evaluation.scaling import Fit

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = typer.Typer(help="Predict the loss of a large run from small ones.", no_args_is_help=True)


@app.command(cls=Verb)
def fit(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Folders of runs, folders that hold runs, CSV or JSONL of flops and loss.", metavar="RUNS..."
        ),
    ],
    predict: Annotated[
        str | None, typer.Option(help="A recipe, or a number of FLOPs such as 1e15.", show_default=False)
    ] = None,
    changes: SET = None,
    data_dir: DATA_DIR = None,
    out: Annotated[Path, typer.Option(help="Where the prediction goes; its plot lies beside it.")] = Path(
        "prediction.json"
    ),
    law: Annotated[
        Literal["auto", "compute", "parametric"],
        typer.Option(help="L(C), L(N, D), or the second where runs vary N and D apart."),
    ] = "auto",
    metric: Annotated[str, typer.Option(help="Of the last step in the runs' logs.")] = "validation_loss",
    as_json: JSON = False,
) -> None:
    """Fit a loss law with an irreducible term, and write down what it says of a larger run before that is made."""
    from polytask.run import scaling

    found = scaling.fit_runs(runs, metric=metric, form=law)
    made = None
    if predict is not None:
        made = scaling.predict(found, predict, out, changes or [], data_dir=data_dir, metric=metric)
    if as_json:
        plain = {"law": {"form": found.law.form} | found.law.named(), "intervals": found.intervals()}
        typer.echo(json.dumps(plain | ({"prediction": made.to_dict()} if made else {}), indent=1))
        return
    _print(found)
    if made is not None:
        between = "" if made.interval is None else f" ({made.interval[0]:.4f} to {made.interval[1]:.4f})"
        typer.echo(
            f"\n{made.name}: {made.flops:.3g} FLOPs, {made.times:.3g} times the largest small run\n"
            f"predicted {made.metric} {made.loss:.4f}{between}, kept in {out} and {out.with_suffix('.png')}\n"
            f"After the run:  polytask scaling check {out} RUN"
        )


def _print(found: "Fit") -> None:
    from rich.table import Table

    table = Table("run", "FLOPs", "loss", "the law", "off by", box=None, pad_edge=False)
    for run, error in zip(found.runs, found.residuals):
        table.add_row(run.name, f"{run.flops:.3g}", f"{run.loss:.4f}", f"{run.loss * (1 + error):.4f}", f"{error:+.2%}")
    console().print(table)
    intervals = found.intervals()
    typer.echo(f"\n{found.law.form}")
    for name, value in found.law.named().items():
        between = f"   ({intervals[name][0]:.4g} to {intervals[name][1]:.4g})" if intervals else ""
        typer.echo(f"  {name} = {value:.4g}{between}")
    if not intervals:
        typer.echo("As few runs as coefficients: the law meets them all, and nothing says how sure it is. Add runs.")


@app.command(cls=Verb)
def check(
    prediction: Annotated[Path, typer.Argument(help="A file that `polytask scaling fit` wrote.")],
    run: Annotated[Path, typer.Argument(help="The folder of the run that was predicted.")],
    as_json: JSON = False,
) -> None:
    """Say whether a prediction holds within 2% of what came out; exit code 1 where it does not."""
    from polytask.run import scaling

    outcome = scaling.check(prediction, run)
    said = outcome.prediction
    if as_json:
        plain = {"predicted": said.loss, "loss": outcome.run.loss, "error": outcome.error}
        typer.echo(
            json.dumps(plain | {"times": said.times, "before": outcome.before, "holds": outcome.holds}, indent=1)
        )
    else:
        verdict = "holds" if abs(outcome.error) <= scaling.HOLDS else "does not hold"
        typer.echo(f"predicted {said.loss:.4f}, came out {outcome.run.loss:.4f}: off by {outcome.error:+.2%}")
        typer.echo(f"It {verdict} within {scaling.HOLDS:.0%}, at {said.times:.3g} times the largest small run.")
        if not outcome.before:
            typer.echo(f"But it was made ({said.made}) after the run began, so it predicts nothing.")
        typer.echo(f"Both are drawn in {prediction.with_suffix('.png')}")
    raise typer.Exit(0 if outcome.holds else 1)
