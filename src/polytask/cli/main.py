"""polytask VERB: from raw files to answers."""

from typing import Annotated

import typer

from polytask.cli import (
    ask,
    bench,
    data,
    demo,
    doctor,
    draw,
    evaluate,
    interop,
    plan,
    scaling,
    serve,
    shorthands,
    show,
    systems,
    tasks,
    tokenizer,
    train,
    tune,
)
from polytask.cli.command import Verb

app = typer.Typer(
    name="polytask",
    help="One model, many tasks: train it, tune it, judge it, ask it.",
    epilog="Begin with: polytask demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
WORDS = {"allow_extra_args": True, "ignore_unknown_options": True}  # the task's fields are options too


def _version(asked: bool) -> None:
    if asked:
        from polytask import runtime

        typer.echo(f"polytask {runtime.version()}".rstrip())
        raise typer.Exit


@app.callback()
def _every(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which one this is.")
    ] = False,
) -> None:
    pass


def _verb(name: str, function: object, panel: str, free: bool = False) -> None:
    settings = WORDS if free else None
    app.command(name, cls=Verb, rich_help_panel=panel, context_settings=settings)(function)  # type: ignore[arg-type]


for _name, _function in {
    "demo": demo.demo, "plan": plan.plan, "train": train.train, "tune": tune.tune, "eval": evaluate.evaluate,
}.items():  # fmt: skip
    _verb(_name, _function, "Make and judge a model")
_verb("ask", ask.ask, "Ask a model", free=True)
for _name, _function in shorthands.VERBS.items():
    _verb(_name, _function, "Ask a model")
for _name, _function in {"draw": draw.draw, "edit": draw.edit, "variations": draw.variations}.items():
    _verb(_name, _function, "Ask a model")
_verb("serve", serve.serve, "Ask a model")
for _name, _function in {"import": interop.import_, "export": interop.export}.items():
    _verb(_name, _function, "Models of other projects")
for _name, _function in {
    "tasks": tasks.tasks, "show": show.show, "doctor": doctor.doctor, "bench": bench.bench,
}.items():  # fmt: skip
    _verb(_name, _function, "Look around")
app.add_typer(systems.app, name="systems", rich_help_panel="Look around")
app.add_typer(scaling.app, name="scaling", rich_help_panel="Make and judge a model")
app.add_typer(data.app, name="data", rich_help_panel="Look around")
app.add_typer(tokenizer.app, name="tokenizer", rich_help_panel="Look around")


def run() -> None:
    """The entry point of the `polytask` command."""
    app()


if __name__ == "__main__":
    run()
