"""From a request of a client to jobs of a worker, and back: what all routes that write text share."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.requests import Request as HttpRequest

from polytask.errors import TooLong
from polytask.inference.sequence import Completion, Request
from polytask.serving.settings import Settings
from polytask.serving.shelf import Served, Shelf, Shelved
from polytask.serving.stream import EventStream, while_there
from polytask.serving.writer import WritingJob


def find(http: HttpRequest, name: str | None) -> Served:
    """The language model that a request names. Raises Refusal."""
    shelf: Shelf = http.app.state.shelf
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


async def submit(http: HttpRequest, served: Served, build: Callable[[], list[Request]]) -> WritingJob:
    """Makes requests, away from the event loop, and hands them in. Raises Refusal and what `build` raises."""
    settings: Settings = http.app.state.settings

    def made() -> list[Request]:
        requests = build()
        for guide in {request.sampling.guide for request in requests}:
            if guide is not None:
                served.model.engine.grammars.compile(guide)  # which takes its time; the engine finds it done
        return requests

    requests = await asyncio.to_thread(made)
    for request in requests:
        size = max(len(request.ids), len(request.encoder_ids or []))
        if settings.prompt is not None and size > settings.prompt:
            raise TooLong(f"The prompt has {size} tokens, but this server takes {settings.prompt}; shorten it.")
    return await served.worker.submit(requests)


async def answer(
    http: HttpRequest, served: Served, build: Callable[[], list[Request]]
) -> tuple[list[Request], list[Completion]]:  # fmt: skip
    """The requests, and their answers when all are complete."""
    job = await submit(http, served, build)
    try:
        completions = await while_there(http, job.result())
    finally:
        served.worker.release(job)
    note(http, **usage(job.requests, completions))
    return job.requests, completions


def streamed(http: HttpRequest, served: Served, job: WritingJob, events: AsyncIterator[bytes]) -> EventStream:
    """A response that sends the events of a job, and frees what it holds however it ends."""
    return EventStream(events, http.app.state.settings.stall, lambda: served.worker.release(job))


def usage(requests: Sequence[Request], completions: Sequence[Completion]) -> dict[str, int]:
    read = sum(len(request.ids) + len(request.encoder_ids or []) for request in requests)
    wrote = sum(len(completion.ids) for completion in completions)
    return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}


def new_id(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex}"


def now() -> int:
    return int(time.time())
