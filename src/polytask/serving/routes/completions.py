"""/v1/completions: texts gone on with."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from polytask.inference.sequence import Completion, Request
from polytask.serving.asking import expect_size, find, new_id, note, note_prompt, now, streamed, submit, usage
from polytask.serving.logprobs import Offsets, Placed, text_logprobs
from polytask.serving.prompts import Echo, Prompt, echo, expect_weighable, prompt_request, prompts_of
from polytask.serving.refusal import Json, about
from polytask.serving.schema import STREAMED, Dials, Named, StreamOptions, expect, sampling
from polytask.serving.shelf import Served
from polytask.serving.stream import DONE, event, while_there
from polytask.serving.worker import Job

router = APIRouter()
DEFAULT = 16  # tokens, as the OpenAI API has it


class CompletionBody(Named, Dials):
    """Texts, or ids of tokens, that are to be gone on with."""

    prompt: Prompt = ""
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = Field(None, ge=1, le=128)


@router.post("/v1/completions", responses=STREAMED)
async def completions(http: HttpRequest, body: CompletionBody) -> Response:
    """What comes after each prompt."""
    served = find(http, body.model)
    expect(body.suffix in (None, ""), "'suffix': use the task 'infilling' (/v1/tasks/infill) to fill a gap.", "suffix")
    prompts = prompts_of(body.prompt)
    note_prompt(http, prompts)
    wanted = DEFAULT if body.max_tokens is None else body.max_tokens
    expect(wanted > 0 or bool(body.echo), "'max_tokens': 0 needs 'echo': true.", "max_tokens", None)
    expect(wanted > 0 or not body.stream, "'stream': with 'max_tokens': 0 nothing is written; leave it out.", "stream")
    best_of = body.best_of or 0
    expect(best_of <= 1 or not body.stream, "'best_of': the best is known at the end; leave 'stream' out.", "best_of")
    if body.echo and body.logprobs is not None:
        expect_weighable(served)
    with about("prompt"):
        return await _answered(http, served, body, prompts, wanted)


async def _answered(
    http: HttpRequest, served: Served, body: CompletionBody, prompts: Sequence[str | list[int]], wanted: int
) -> Response:  # fmt: skip
    """The response; wanted: tokens of each answer."""
    logprobs = 0 if body.logprobs is None else max(body.logprobs, 1)
    dials = sampling(served, "text", body, max(wanted, 1), logprobs=logprobs, best_of=body.best_of or 0)
    frame = {"id": new_id("cmpl"), "object": "text_completion", "created": now(), "model": served.name}

    def build() -> list[Request]:
        return [prompt_request(served, one, dials) for one in prompts]

    if wanted == 0:
        requests = await asyncio.to_thread(build)
        expect_size(http, max(len(request.ids) for request in requests))
        echoes = await while_there(http, _alone(served, body, prompts, requests))
        choices = [_choice(served, body, i, echoes[i // dials.n], None) for i in range(len(prompts) * dials.n)]
        return Json({**frame, "choices": choices, "usage": usage(requests, [])})
    job = await submit(http, served, build, body.priority)
    if body.stream:
        events = _events(http, served, body, prompts, job, frame)
        return streamed(http, served, job, events, "prompt")
    try:
        echoes, written = await while_there(http, _whole(served, body, prompts, job))
    finally:
        served.worker.release(job)
    total = usage(job.requests, written)
    note(http, **total)
    asked = [(before, request.spaced) for before, request in zip(echoes, job.requests) for _ in range(dials.n)]
    choices = [
        _choice(served, body, i, before, one, within) for i, (one, (before, within)) in enumerate(zip(written, asked))
    ]
    return Json({**frame, "choices": choices, "usage": total})


async def _whole(
    served: Served, body: CompletionBody, prompts: Sequence[str | list[int]], job: Job
) -> tuple[list[Echo | None], list[Completion]]:  # fmt: skip
    return await _echoes(served, body, prompts, job.requests, job.until), await job.result()


async def _alone(
    served: Served, body: CompletionBody, prompts: Sequence[str | list[int]], requests: Sequence[Request]
) -> list[Echo | None]:  # fmt: skip
    """What is given back where nothing is written. Prompts are weighed one after another, so that all take one place
    in the queue."""
    async with served.worker.admitted() as until:
        echoes = await _echoes(served, body, prompts, requests, until)
    served.worker.meter.read(sum(request.read for request in requests) if body.logprobs is not None else 0)
    return echoes


async def _echoes(
    served: Served, body: CompletionBody, prompts: Sequence[str | list[int]], requests: Sequence[Request], until: float
) -> list[Echo | None]:  # fmt: skip
    """What each prompt gives back, nothing where the request does not ask for it."""
    if not body.echo:
        return [None] * len(prompts)
    pairs = zip(prompts, requests)
    return [await echo(served, one, given, body.logprobs, until, body.priority or 0) for one, given in pairs]


def _choice(
    served: Served, body: CompletionBody, index: int, before: Echo | None, one: Completion | None, within: bool = False
) -> dict[str, Any]:  # fmt: skip
    text, tokens = (before.text, before.tokens) if before else ("", [])
    if one:
        offsets = Offsets(served.model.tokenizer.writing, len(text), within=within)
        text, tokens = text + one.text, [*tokens, *offsets.of(zip(one.ids, one.logprobs or []))]
    return {
        "index": index, "text": text, "logprobs": _logprobs(served, body, tokens),
        "finish_reason": one.finish if one else "length",
    }  # fmt: skip


def _logprobs(served: Served, body: CompletionBody, tokens: Sequence[Placed]) -> dict[str, Any] | None:
    return None if body.logprobs is None else text_logprobs(served.model.tokenizer.writing, tokens, body.logprobs)


async def _events(
    http: HttpRequest, served: Served, body: CompletionBody, prompts: Sequence[str | list[int]], job: Job,
    frame: dict[str, Any],
) -> AsyncIterator[bytes]:  # fmt: skip
    with_usage = body.stream_options is not None and body.stream_options.include_usage

    def chunk(index: int, text: str, finish: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        return event({**frame, "choices": [choice], **({"usage": None} if with_usage else {})})

    n, offsets = job.requests[0].sampling.n, dict[int, Offsets]()
    echoes = await _echoes(served, body, prompts, job.requests, job.until)
    completions = dict[int, Completion]()
    async for piece in job:
        if piece.index not in offsets:  # only now: a request that still waits has not begun
            before, within = echoes[piece.index // n], job.requests[piece.index // n].spaced
            begin = len(before.text) if before else 0
            offsets[piece.index] = Offsets(served.model.tokenizer.writing, begin, within=within)
            if before:
                yield chunk(piece.index, before.text, None, _logprobs(served, body, before.tokens))
        if piece.text or piece.tokens:
            logprobs = _logprobs(served, body, offsets[piece.index].of(piece.tokens))
            yield chunk(piece.index, piece.text, None, logprobs)
        if piece.completion is not None:
            completions[piece.index] = piece.completion
            yield chunk(piece.index, "", piece.completion.finish)
    total = usage(job.requests, [completions[index] for index in sorted(completions)])
    note(http, **total)
    if with_usage:
        yield event({**frame, "choices": [], "usage": total})
    yield DONE
