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


# What is not said is as the model's recipe says, which `polytask show` prints, and else what is named here.
STEPS = Annotated[int | None, _option("Passes of the network for a picture; as the model says, or 50.")]
GUIDANCE = Annotated[
    float | None, _option("How strongly it is led to the prompt: 1 not at all; as the model says, or 3.")
]
SAMPLER = Annotated[
    str | None,
    _option("ddim, ddpm, euler, heun or dpm_solver; as the model says, or ddim. Another one takes 50 steps again."),
]
CANDIDATES = Annotated[int | None, _option("Draw so many, and keep those that fit the prompt best by a CLIP.")]
CLIP = Annotated[Path | None, _option("The folder of that CLIP, where the model holds none.")]
DIALS: dict[str, Any] = {
    "n": Annotated[int | None, _option("So many pictures.", "--n")],
    "seed": Annotated[int | None, _option("The same seed draws the same picture.")],
    "steps": STEPS,
    "guidance": GUIDANCE,
    "sampler": SAMPLER,
    "spacing": Annotated[
        str | None, _option("Where its steps lie: trailing, leading or karras, which are dense where noise is little.")
    ],
    "eta": Annotated[float | None, _option("Of ddim and ddpm: noise that is added on the way, from 0 to 1.")],
    "gamma": Annotated[float | None, _option("Of ddpm: from the least variance of its noise, 0, to the most, 1.")],
    "threshold": Annotated[str | None, _option("How values out of range come back: static, dynamic or none.")],
    "percentile": Annotated[
        float | None, _option("Of the dynamic threshold: the share of values within range; 0.995 unless said.")
    ],
}
PRIOR: dict[str, Any] = {
    "prior_steps": Annotated[int | None, _option("Of DALL-E 2's prior: its steps; 64 unless said.")],
    "prior_guidance": Annotated[float | None, _option("Of the same: how strongly it is led; 2 unless said.")],
    "prior_candidates": Annotated[
        int | None, _option("Of the same: of so many embeddings the best is drawn; 2 unless said.")
    ],
}
LOADING: dict[str, Any] = {
    "dtype": Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel="Loading")],
    "device": Annotated[str | None, typer.Option(help="cpu, cuda, ...", rich_help_panel="Loading")],
}


ENLARGING: dict[str, Any] = {
    "augmentation": Annotated[
        str | None,
        _option("Noise in the smaller picture, from 0 to 1; 0,0.1,0.3 or search: what fits best by a CLIP."),
    ],
}
PICTURE_GUIDANCE = Annotated[
    float | None,
    _option("Of a model that follows instructions: how closely it keeps to the picture; as it says, or 1.5."),
]
CHANGING: dict[str, Any] = {"picture_guidance": PICTURE_GUIDANCE}
BY_TOKENS: dict[str, Any] = {
    "temperature": Annotated[float | None, _option("Of a model that draws token by token, as of texts.")],
    "top_k": Annotated[int | None, _option("Of the same: sample among so many tokens; 0 is all.")],
}
COMPLETION: dict[str, Any] = {
    "upper": Annotated[Path | None, _option("Of the same: a picture whose upper rows of tokens are kept.")],
    "rows": Annotated[int | None, _option("So many of them; half unless said.")],
    "resize": Annotated[bool | None, _option("Fit such a picture where it has another size.", "--resize")],
}
CHOICE: dict[str, Any] = {
    "candidates": CANDIDATES,
    "clip": CLIP,
}


def _with_dials(*tables: dict[str, Any]) -> Any:
    """Gives a verb the options of `tables` and LOADING, those that were said, as its words `dials` and `loading`."""
    options = {name: kind for table in tables for name, kind in table.items()}
    return functools.partial(_with_options, options)


def _with_options(options: dict[str, Any], function: Any) -> Any:
    own = [p for p in inspect.signature(function).parameters.values() if p.name not in ("dials", "loading")]

    @functools.wraps(function)
    def verb(**given: Any) -> None:
        said = [{name: given.pop(name) for name in table} for table in (options, LOADING)]
        dials, loading = ({name: value for name, value in one.items() if value is not None} for one in said)
        function(**given, dials=dials, loading=loading)

    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=None)
        for name, kind in (options | LOADING).items()
    ]
    kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    verb.__signature__ = inspect.Signature([*kept, *more])  # type: ignore[attr-defined]
    del verb.__wrapped__  # typer reads the signature of what is wrapped
    return verb


@_with_dials(DIALS, PRIOR, ENLARGING, CHOICE, BY_TOKENS, COMPLETION)
def draw(
    model: MODEL,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="A caption, or a label.", show_default=False)],
    out: OUT = Path("drawings"),
    dials: Any = None,
    loading: Any = None,
) -> None:
    """Draw pictures of a caption, or of a label: PNGs, numbered on from those in the folder, and a contact sheet.

    For example:  polytask draw runs/imagen-blocks "a large green circle left of a small black square" --n 4 --seed 7
    """
    from polytask.run.draw import draw as run_draw

    _print(run_draw(model, prompt, out, loading, dials))


@_with_dials(DIALS, CHANGING, PRIOR, ENLARGING, CHOICE, BY_TOKENS)
def edit(
    model: MODEL,
    picture: PICTURE,
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="What the whole is to show, or an instruction.", show_default=False)
    ],
    mask: Annotated[
        Path | None,
        typer.Option(help="A picture, white where it is to be drawn anew, black where it stays.", show_default=False),
    ] = None,
    resize: Annotated[bool, typer.Option("--resize", help="Fit a picture or mask of another size.")] = False,
    out: OUT = Path("drawings"),
    dials: Any = None,
    loading: Any = None,
) -> None:
    """Draw a part of a picture anew, so that the whole fits a caption, or change it as an instruction says.

    For example:  polytask edit runs/imagen-blocks picture.png "a blue circle" --mask mask.png

    or:  polytask edit runs/edit-blocks picture.png "make the circle blue"
    """
    from polytask.run.draw import edit as run_edit

    _print(run_edit(model, picture, prompt, mask, resize, out, loading, dials))


@_with_dials(DIALS, ENLARGING)
def variations(
    model: MODEL,
    picture: PICTURE,
    towards: Annotated[
        Path | None, typer.Option(help="Another picture, and those on the way to it.", show_default=False)
    ] = None,
    before: Annotated[
        str | None, typer.Option("--from", help="With --to: what a caption says now.", show_default=False)
    ] = None,
    after: Annotated[
        str | None, typer.Option("--to", help="What it shall say; pictures turn to that.", show_default=False)
    ] = None,
    theta: Annotated[
        float | None, typer.Option(help="How far, from 0 to 1; 0.5 unless said.", show_default=False)
    ] = None,
    details: Annotated[
        bool | None,
        typer.Option(
            help="Begin with the picture's own noise, which keeps its details; with --towards and --to unless said.",
            show_default=False,
        ),
    ] = None,
    out: OUT = Path("drawings"),
    dials: Any = None,
    loading: Any = None,
) -> None:
    """Draw pictures that show the same in another way, lie between two pictures, or change what a caption says.

    For example:  polytask variations MODEL a.png --towards b.png --n 7

    or:  polytask variations MODEL a.png --from "a green circle" --to "a blue circle"
    """
    from polytask.run.draw import Wanted
    from polytask.run.draw import variations as run_variations

    own = {} if details is None else {"details": details}
    wanted = Wanted(towards, before, after, theta)
    _print(run_variations(model, picture, wanted, out, loading, dials | own))


def _print(files: list[Path]) -> None:
    for file in files:
        typer.echo(file)
