"""How a model is loaded and how it writes its answer, as options that all asking verbs share."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from polytask.errors import ConfigError
from polytask.inference.constrained import Guide

_PANEL = "Sampling"


def _option(help: str) -> Any:
    return typer.Option(help=help, rich_help_panel=_PANEL, show_default=False)


OPTIONS: dict[str, Any] = {
    "max_tokens": Annotated[int | None, _option("Tokens of an answer at most.")],
    "min_tokens": Annotated[int | None, _option("Tokens of an answer at least.")],
    "temperature": Annotated[float | None, _option("0 takes the likeliest token; 1 samples as the model believes.")],
    "top_k": Annotated[int | None, _option("Sample among so many tokens; 0 is all.")],
    "top_p": Annotated[float | None, _option("Sample among the likeliest tokens of this joint probability.")],
    "min_p": Annotated[float | None, _option("Leave out tokens below this share of the likeliest one's probability.")],
    "repetition_penalty": Annotated[float | None, _option("Above 1, tokens that came before become less likely.")],
    "presence_penalty": Annotated[float | None, _option("Taken from the logits of tokens that were written.")],
    "frequency_penalty": Annotated[float | None, _option("The same, for each time they were written.")],
    "logit_bias": Annotated[list[str] | None, _option("ID=NUMBER, added to a token's logit; may be given again.")],
    "guide": Annotated[
        str | None,
        _option("What the answer must be: json, regex:PATTERN, a file of a schema (.json) or grammar (.lark)."),
    ],
    "stop": Annotated[list[str] | None, _option("End at this text; may be given again.")],
    "seed": Annotated[int | None, _option("The same seed gives the same answer.")],
    "n": Annotated[
        int | None, typer.Option("--n", help="So many samples.", rich_help_panel=_PANEL, show_default=False)
    ],
    "best_of": Annotated[int | None, _option("Of so many samples, the likeliest come back.")],
    "beam_size": Annotated[int | None, _option("Beam search with so many beams.")],
    "length_penalty": Annotated[float | None, _option("Of beam search: 0 ranks by probability; more favours length.")],
    "logprobs": Annotated[int | None, _option("With --json: so many likeliest tokens at each place.")],
}
JSON = Annotated[bool, typer.Option("--json", help="Print JSON: the task, the example and the answer.")]
LOADING: dict[str, Any] = {
    "dtype": Annotated[str | None, typer.Option(help="float32, bfloat16 or auto.", rich_help_panel="Loading")],
    "int8": Annotated[
        bool, typer.Option("--int8", help="Keep weights in 8 bits.", rich_help_panel="Loading", show_default=False)
    ],
    "adapter": Annotated[
        str | None, typer.Option(help="A folder of LoRA weights to add.", rich_help_panel="Loading", show_default=False)
    ],
    "draft": Annotated[
        str | None,
        typer.Option(
            help="Guess ahead by ngram or by a smaller model, for speed.",
            rich_help_panel="Loading",
            show_default=False,
        ),
    ],
    "truncate": Annotated[
        str | None,
        typer.Option(
            help="Cut this end (left or right) of a text that is too long.",
            rich_help_panel="Loading",
            show_default=False,
        ),
    ],
}


@dataclass(frozen=True)
class Wish:
    """What the shared options say: fields of Sampling, words of Model.load, and whether JSON is wanted."""

    sampling: dict[str, Any]
    loading: dict[str, Any]
    as_json: bool


def _bias(pair: str) -> tuple[int, float]:
    """Raises ConfigError where the text is not ID=NUMBER."""
    i, _, number = pair.partition("=")
    try:
        return int(i), float(number)
    except ValueError:
        raise ConfigError(f"--logit-bias {pair}: write the id of a token and a number, as in 50=-100.") from None


def with_sampling(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --json, OPTIONS and LOADING to a verb, which gets them as `wish`."""
    own = [p for p in inspect.signature(function).parameters.values() if p.name != "wish"]
    options = {"as_json": JSON} | OPTIONS | LOADING
    shared = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if name in ("as_json", "int8") else None,
            annotation=annotation,
        )
        for name, annotation in options.items()
    ]

    @functools.wraps(function)
    def verb(**given: Any) -> Any:
        sampling = {name: value for name in OPTIONS if (value := given.pop(name)) not in (None, [])}
        if "guide" in sampling:
            sampling["guide"] = Guide.parse(sampling["guide"])
        if "logit_bias" in sampling:
            sampling["logit_bias"] = dict(map(_bias, sampling["logit_bias"]))
        loading = {name: value for name in LOADING if (value := given.pop(name))}
        wish = Wish(sampling, loading, given.pop("as_json"))
        return function(**given, wish=wish)

    verb.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    verb.__annotations__ = {p.name: p.annotation for p in (*own, *shared)}
    return verb
