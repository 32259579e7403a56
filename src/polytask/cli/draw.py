"""polytask draw | edit | variations: pictures from a model that draws."""

import functools
import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from polytask.cli.ask import MODEL

_PANEL = "Drawing"
PICTURE = Annotated[Path, typer.Argument(metavar="PICTURE", help="A picture's file.", show_default=False)]
OUT = Annotated[Path, typer.Option(help="The folder for the pictures.")]


def _option(help: str, *names: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=_PANEL, show_default=False)


STEPS = Annotated[int | None, _option("Passes of the network for a picture; 50 unless said.")]
GUIDANCE = Annotated[float | None, _option("How strongly it is led to the prompt: 1 not at all, 3 unless said.")]
SAMPLER = Annotated[str | None, _option("ddim, ddpm, euler, heun or dpm_solver.")]
DIALS: dict[str, Any] = {
    "n": Annotated[int | None, _option("So many pictures.", "--n")],
    "seed": Annotated[int | None, _option("The same seed draws the same picture.")],
    "steps": STEPS,
    "guidance": GUIDANCE,
    "sampler": SAMPLER,
    "threshold": Annotated[str | None, _option("static or dynamic.")],
}
LOADING: dict[str, Any] = {
    "dtype": Annotated[str | None, typer.Option(help="float32 or bfloat16.", rich_help_panel="Loading")],
    "device": Annotated[str | None, typer.Option(help="cpu, cuda, ...", rich_help_panel="Loading")],
}


def _with_dials(function: Any) -> Any:
    """Gives a verb the options of DIALS and LOADING, those that were said, as its words `dials` and `loading`."""
    own = [p for p in inspect.signature(function).parameters.values() if p.name not in ("dials", "loading")]

    @functools.wraps(function)
    def verb(**given: Any) -> None:
        said = [{name: given.pop(name) for name in table} for table in (DIALS, LOADING)]
        dials, loading = ({name: value for name, value in one.items() if value is not None} for one in said)
        function(**given, dials=dials, loading=loading)

    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=None)
        for name, kind in (DIALS | LOADING).items()
    ]
    kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    verb.__signature__ = inspect.Signature([*kept, *more])  # type: ignore[attr-defined]
    del verb.__wrapped__  # typer reads the signature of what is wrapped
    return verb


@_with_dials
def draw(
    model: MODEL,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="A caption, or a label.", show_default=False)],
    out: OUT = Path("drawings"),
    dials: Any = None,
    loading: Any = None,
) -> None:
    """Draw pictures of a caption, or of a label: PNGs and a contact sheet.

    For example:  polytask draw runs/imagen-blocks "a large red circle left of a small blue square" --n 4 --seed 7
    """
    from polytask.run.draw import draw as run_draw

    _print(run_draw(model, prompt, out, loading, dials))


@_with_dials
def edit(
    model: MODEL,
    picture: PICTURE,
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="What the whole picture is to show.", show_default=False)
    ],
    mask: Annotated[
        Path | None, typer.Option(help="A picture, white where it is to be drawn anew.", show_default=False)
    ] = None,
    resize: Annotated[bool, typer.Option("--resize", help="Fit a picture or mask of another size.")] = False,
    out: OUT = Path("drawings"),
    dials: Any = None,
    loading: Any = None,
) -> None:
    """Draw a part of a picture anew, so that the whole fits a caption."""
    from polytask.run.draw import edit as run_edit

    _print(run_edit(model, picture, prompt, mask, out, loading, {**dials, "resize": resize}))


@_with_dials
def variations(
    model: MODEL, picture: PICTURE, out: OUT = Path("drawings"), dials: Any = None, loading: Any = None
) -> None:  # fmt: skip
    """Draw pictures that show the same in another way."""
    from polytask.run.draw import variations as run_variations

    _print(run_variations(model, picture, out, loading, dials))


def _print(files: list[Path]) -> None:
    for file in files:
        typer.echo(file)
