"""How a model writes its answer, as options that all asking verbs share."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

_PANEL = "Sampling"


def _option(help: str) -> Any:
    return typer.Option(help=help, rich_help_panel=_PANEL, show_default=False)


OPTIONS: dict[str, Any] = {
    "max_tokens": Annotated[int | None, _option("Tokens of an answer at most.")],
    "temperature": Annotated[float | None, _option("0 takes the likeliest token; 1 samples as the model believes.")],
    "top_k": Annotated[int | None, _option("Sample among so many tokens; 0 is all.")],
    "top_p": Annotated[float | None, _option("Sample among the likeliest tokens of this joint probability.")],
    "min_p": Annotated[float | None, _option("Leave out tokens below this share of the likeliest one's probability.")],
    "repetition_penalty": Annotated[float | None, _option("Above 1, tokens that came before become less likely.")],
    "stop": Annotated[list[str] | None, _option("End at this text; may be given again.")],
    "seed": Annotated[int | None, _option("The same seed gives the same answer.")],
    "n": Annotated[
        int | None, typer.Option("--n", help="So many samples.", rich_help_panel=_PANEL, show_default=False)
    ],
    "beam_size": Annotated[int | None, _option("Beam search with so many beams.")],
}


def with_sampling(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds OPTIONS to a verb, which gets those that were given as `sampling`, a dict."""
    own = [p for p in inspect.signature(function).parameters.values() if p.name != "sampling"]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in OPTIONS.items()
    ]

    @functools.wraps(function)
    def verb(**given: Any) -> Any:
        chosen = {name: given.pop(name) for name in OPTIONS}
        return function(**given, sampling={k: v for k, v in chosen.items() if v is not None and v != []})

    verb.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    verb.__annotations__ = {p.name: p.annotation for p in (*own, *shared)}
    return verb
