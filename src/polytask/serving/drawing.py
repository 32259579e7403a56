"""From what a client wants drawn to pictures: by a model of either kind."""

import asyncio
from base64 import b64encode
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest

from polytask.inference.drawing import show
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Completion, Request
from polytask.pictures import Plan
from polytask.serving.asking import answer, note, usage
from polytask.serving.shelf import Served, ServedPictures
from polytask.serving.stream import while_there
from polytask.tasks import prompt
from polytask.tasks.picture import png, to_picture

T = TypeVar("T")
_OPENING = ThreadPoolExecutor(2, thread_name_prefix="pictures")  # what is small as a file may be large when it is open


@dataclass(frozen=True)
class Drawn:
    """Pictures as PNGs, and the tokens that they took where a model draws by tokens."""

    pictures: list[bytes]
    usage: dict[str, int] | None = None


async def opening(function: Callable[[], T]) -> T:
    """What a function gives that opens pictures of clients, few at once, so that they take little memory together."""
    return await asyncio.get_running_loop().run_in_executor(_OPENING, function)


async def paint(http: HttpRequest, served: ServedPictures, build: Callable[[], Plan], pictures: int) -> Drawn:
    """The pictures of a plan. Raises what `build` raises, Refusal, and SamplingError."""

    async def drawn() -> list[bytes]:
        job = await served.worker.submit(await opening(build), pictures)
        try:
            pixels = await job.result()
        finally:
            served.worker.release(job)
        return await asyncio.to_thread(lambda: [png(to_picture(one[0])) for one in pixels])

    found = await while_there(http, drawn())
    note(http, pictures=len(found))
    return Drawn(found)


async def draw(
    http: HttpRequest, served: Served, task: str, example: Mapping[str, Any], sampling: Sampling
) -> Drawn:  # fmt: skip
    """Pictures of a task that draws, token by token. Raises TooLong and TaskError."""

    def build() -> list[Request]:
        return [served.model.request(prompt(served.model.task(task), example), sampling)]

    requests, completions = await answer(http, served, build)
    await finish(http, served, completions)
    return Drawn([one.picture for one in completions if one.picture is not None], usage(requests, completions))


async def finish(http: HttpRequest, served: Served, completions: list[Completion]) -> None:
    """Gives completions that are pictures what they show."""
    pictures = served.model.tokenizer.pictures
    assert pictures is not None  # else the request was refused
    await while_there(http, served.worker.call(lambda: show(completions, pictures)))
    drawn = sum(one.picture is not None for one in completions)
    served.worker.meter.drew(drawn)
    note(http, pictures=drawn)


def b64(picture: bytes) -> dict[str, str]:
    """A picture as the OpenAI API sends it."""
    return {"b64_json": b64encode(picture).decode()}
