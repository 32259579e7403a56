"""From a request of a client to jobs of a worker, and back: what all routes that write text share."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request as HttpRequest

from polytask.errors import TooLong
from polytask.inference.sequence import Completion, Request
from polytask.serving.refusal import NAMES, of_error
from polytask.serving.shelf import Served, Shelf, Shelved
from polytask.serving.stream import EventStream, while_there
from polytask.serving.worker import Job


def find(http: HttpRequest, name: str | None, talks: bool = False) -> Served:
    """The language model that a request names; where it names none, the first, and the first that `talks` where one of
    them does. Raises Refusal."""
    shelf: Shelf = http.app.state.shelf
    if name is None and talks:
        name = next((each.name for each in shelf if isinstance(each, Served) and each.talks), None)
    served = shelf.able(name, lambda each: isinstance(each, Served), "writes texts")
    assert isinstance(served, Served)
    note(http, model=served.name)
    return served


def able(http: HttpRequest, name: str | None, task: str, what: str) -> Shelved:
    """A model of any kind that can be asked this task; `what` says so in words. Raises Refusal."""
    shelf: Shelf = http.app.state.shelf
    found = shelf.able(name, lambda each: task in each.tasks, what)
    note(http, model=found.name)
    return found


def note(http: HttpRequest, **words: Any) -> None:
    """Adds to the request's line of the log."""
    http.scope["state"]["note"].update(words)


def note_prompt(http: HttpRequest, prompt: Any) -> None:
    """The same for what was asked, where the log may hold it."""
    if http.app.state.settings.log_prompts:
        note(http, prompt=prompt)


async def submit(
    http: HttpRequest, served: Served, build: Callable[[], list[Request]], priority: int | None = None
) -> Job:  # fmt: skip
    """Makes requests, away from the event loop, and hands them in. Raises Refusal and what `build` raises."""

    def made() -> list[Request]:
        requests = [replace(one, priority=priority or 0) for one in build()]
        for guide in {request.sampling.guide for request in requests}:
            if guide is not None:
                served.model.engine.grammars.compile(guide)  # which takes its time; the engine finds it done
        return requests

    requests = await asyncio.to_thread(made)
    for request in requests:
        expect_size(http, max(len(request.ids), len(request.encoder_ids or [])))
    return await served.worker.submit(requests)


def expect_size(http: HttpRequest, tokens: int) -> None:
    """Raises TooLong for a prompt of more tokens than the server takes."""
    most = http.app.state.settings.prompt
    if most is not None and tokens > most:
        raise TooLong(f"The prompt has {tokens} tokens, but this server takes {most}; shorten it.")


async def answer(
    http: HttpRequest, served: Served, build: Callable[[], list[Request]], priority: int | None = None
) -> tuple[list[Request], list[Completion]]:  # fmt: skip
    """The requests, and their answers when all are complete."""
    job = await submit(http, served, build, priority)
    try:
        completions = await while_there(http, job.result())
    finally:
        served.worker.release(job)
    note(http, **usage(job.requests, completions))
    return job.requests, completions


def streamed(
    http: HttpRequest, served: Served, job: Job, events: AsyncIterator[bytes], prompt: str, **names: str
) -> EventStream:
    """A response that sends the events of a job, and frees what it holds however it ends. prompt, names: the request's
    words, as `about` takes them."""
    stall, free = http.app.state.settings.stall, lambda: served.worker.release(job)
    return EventStream(events, stall, free, lambda error: of_error(error, prompt, NAMES | names))


def usage(requests: Sequence[Request], completions: Sequence[Completion]) -> dict[str, Any]:
    """completions: as many of each request, in order; of answers that share a prompt one alone may have read it."""
    each = len(completions) // len(requests)
    cached = sum(min(one.cached for one in completions[i : i + each]) for i in range(0, len(completions), each or 1))
    read = sum(request.read for request in requests)
    wrote = sum(len(completion.ids) for completion in completions if not completion.scored)
    return {
        "prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote,
        "prompt_tokens_details": {"cached_tokens": cached},
    }  # fmt: skip


def new_id(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex}"


def now() -> int:
    return int(time.time())
