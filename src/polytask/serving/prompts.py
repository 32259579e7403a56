"""Prompts of /v1/completions and inputs of /v1/embeddings: texts, or ids of tokens, one or several."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from polytask.errors import TooLong
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Request
from polytask.serving.logprobs import Offsets, Placed
from polytask.serving.refusal import Refusal
from polytask.serving.schema import expect
from polytask.serving.shelf import Served
from polytask.tasks import Text

Id = Annotated[int, Field(ge=0, lt=2**31)]
Ids = Annotated[list[Id], Field(min_length=1, fail_fast=True)]
Prompt = (
    str
    | Ids
    | Annotated[list[str], Field(min_length=1, fail_fast=True)]
    | Annotated[list[Ids], Field(min_length=1, fail_fast=True)]
)


def prompts_of(prompt: str | Sequence[Any]) -> list[str | list[int]]:
    """One or several prompts as a list."""
    if isinstance(prompt, str):
        return [prompt]
    return [list(prompt)] if isinstance(prompt[0], int) else list(prompt)


def prompt_request(served: Served, prompt: str | list[int], sampling: Sampling) -> Request:
    """What the engine is asked. Ids are taken as they are; texts as the task `text` has them. Raises Refusal."""
    if isinstance(prompt, str):
        served.expect_short(prompt)
        return served.model.request([Text(prompt, target=True)] if prompt else [], sampling)
    expect_ids(served, prompt, "prompt")
    expect(not served.model.config.encoder_layers, "'prompt': an encoder-decoder is asked by texts, not by ids.",
           "prompt")  # fmt: skip
    return Request(prompt, sampling, continues=served.model.tokenizer.open_ended(prompt))


def expect_ids(served: Served, ids: Sequence[int], param: str) -> None:
    size = served.model.tokenizer.vocab_size
    wrong = next((i for i in ids if i >= size), None)
    if wrong is not None:
        raise Refusal(400, f"'{param}': {wrong} is no token of '{served.name}', which has {size}.", param=param)


@dataclass(frozen=True)
class Echo:
    """A prompt that is given back before its answer."""

    text: str
    tokens: list[Placed]


def expect_weighable(served: Served) -> None:
    """Raises Refusal where it cannot be told how likely a prompt is."""
    fits = not served.model.config.encoder_layers and not served.model.config.prefix
    expect(fits, "'logprobs' with 'echo': this model reads a prompt from both sides; leave one out.", "logprobs")


async def echo(
    served: Served, prompt: str | list[int], request: Request, logprobs: int | None, until: float, priority: int
) -> Echo:  # fmt: skip
    """The prompt's text, and where `logprobs` is given how likely the network finds it, in the room that its client
    holds `until` then. Raises Refusal, TooLong."""
    model = served.model
    if len(request.ids) > model.engine.length:
        raise TooLong(f"The prompt has {len(request.ids)} tokens, but the context holds {model.engine.length}.")
    text = prompt if isinstance(prompt, str) else model.tokenizer.decode(prompt, special=True)
    # What a layout puts in front of a text (<|text|>, <s>) is no part of it.
    own = len(model.tokenizer.encode(prompt)) if isinstance(prompt, str) else len(prompt)
    begin = len(request.ids) - own
    if logprobs is None:
        return Echo(text, [])
    first, rest = request.ids[:1], request.ids[1:]
    scoring = Request.scoring(first, [rest], max(logprobs, 1), priority=priority)
    known = await _weighed(served, scoring, until) if rest else []
    places = [None, *known]  # nothing is known of the first, before which there is nothing
    offsets = Offsets(model.tokenizer.writing, special=True)
    return Echo(text, offsets.of(zip(request.ids[begin:], places[begin:])))


async def _weighed(served: Served, request: Request, until: float) -> list[dict[int, float]]:
    job = await served.worker.submit([request], until)
    try:
        (one,) = await job.result()
    finally:
        served.worker.release(job)
    return one.logprobs or []
