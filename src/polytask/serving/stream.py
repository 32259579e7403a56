"""Answers that are sent while they are written, as server-sent events, and what ends them early."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from polytask.errors import Error
from polytask.serving.refusal import Refusal, of_error, written

LOG = logging.getLogger("polytask.serving")
T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # neither kept nor held back by what is between


def event(content: Mapping[str, Any], name: str = "") -> bytes:
    """One event; `name` where the client goes by it."""
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + written(content) + b"\n\n"


class EventStream(Response):
    """A response of events. It ends early where the client leaves, or takes nothing for `stall` seconds; `ended` is
    called however it ends. refuse: what is said to the client of an error."""

    def __init__(
        self, events: AsyncIterator[bytes], stall: float, ended: Callable[[], object],
        refuse: Callable[[Error], Refusal] = of_error,
    ):  # fmt: skip
        super().__init__(None, 200, HEADERS, "text/event-stream")
        del self.headers["content-length"]
        self.events, self.stall, self.ended, self.refuse = guarded(events, self), stall, ended, refuse
        self.refused: Refusal | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                scope["state"]["note"]["left"] = True  # for the log, which has a status of 200
        finally:
            for task in (sending, leaving):
                task.cancel()
            results = await asyncio.gather(sending, leaving, return_exceptions=True)
            await self.events.aclose()  # type: ignore[attr-defined]
            self.ended()
            if self.refused is not None:
                scope["state"]["note"].update(self.refused.noted)
        if isinstance(results[0], Exception) and not isinstance(results[0], TimeoutError | OSError):
            raise results[0]

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for part in self.events:
            async with asyncio.timeout(self.stall):
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_there(request: Request, work: Awaitable[T]) -> T:
    """What `work` gives, unless the client leaves before it does."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Refusal(499, "The client left.")
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def guarded(events: AsyncIterator[bytes], stream: EventStream) -> AsyncIterator[bytes]:
    """The events, and where the answer fails on its way the error as a last one, of which the stream keeps a note."""
    try:
        async for part in events:
            yield part
    except Error as error:
        stream.refused = stream.refuse(error)
        yield event(stream.refused.body())
    except Exception:
        LOG.exception("An answer failed while it was sent.")
        stream.refused = Refusal(500, "The server failed while it wrote this answer.")
        yield event(stream.refused.body())
