"""One address in front of several replicas of the app.

Each request goes to one replica. Where that replica ends before the client has had anything, another one is asked;
where the client has had the beginning of a stream, the stream ends with an error in the form of the OpenAI API.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from polytask.serving.app import Life, guard
from polytask.serving.metrics import Figures, merged
from polytask.serving.refusal import Json, Refusal, late
from polytask.serving.settings import Settings
from polytask.serving.stream import event, while_there

LOG = logging.getLogger("polytask.serving")
TRIES = 3  # a request that ends each replica that reads it must not end them all
PAUSE = 0.2  # seconds before another replica is asked
PASSED = ("type", "asgi", "http_version", "method", "path", "raw_path", "query_string", "root_path", "scheme", "client")
NOTE = "polytask.note"  # the message that tells what a replica noted of a request; the last one of each answer


class Lost(Exception):
    """A replica ended before its answer did."""


class Stalled(Exception):
    """A client takes nothing of what it is sent."""


@dataclass(frozen=True)
class Pool:
    """The replicas as the front sees them.

    ask: an ASGI scope and a body to lists of ASGI messages; it raises Lost. ready: how many replicas are ready (it may
    block). figures: the newest figures of each replica by its name.
    """

    ask: Callable[[Scope, bytes], AsyncGenerator[list[Message], None]]
    ready: Callable[[], int]
    figures: Callable[[], Awaitable[dict[str, bytes]]]


def create_front(pool: Pool, settings: Settings) -> Starlette:
    """An ASGI app that has the gate of `create_app` and passes what gets through to replicas."""

    async def health(_: Request) -> Response:
        ready = await asyncio.to_thread(pool.ready)
        return Json({"status": "ok" if ready else "failed", "replicas": ready}, 200 if ready else 503)

    async def ready(_: Request) -> Response:
        welcome = not app.state.life.draining and await asyncio.to_thread(pool.ready) > 0
        return Json({"ready": welcome, "running": app.state.life.running - 1}, 200 if welcome else 503)

    async def metrics(_: Request) -> Response:
        texts = {"front": app.state.figures.text(), **await pool.figures()}
        return Response(await asyncio.to_thread(merged, texts), media_type=CONTENT_TYPE_LATEST)

    own = [Route(f"/{each.__name__}", each) for each in (health, ready, metrics)]
    app = Starlette(routes=[*own, Route("/{path:path}", Passage(pool, settings))])
    app.state.settings, app.state.figures, app.state.life = settings, Figures(), Life()
    guard(app)
    return app


class Passage:
    """Passes requests to replicas, and their answers back."""

    def __init__(self, pool: Pool, settings: Settings):
        self.pool, self.settings = pool, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive()).get("body", b"")  # whole: the gate has read it
        answer = Answer(self.settings.stall, scope["state"]["note"], send)
        try:
            async with asyncio.timeout(self.settings.seconds):
                await while_there(Request(scope, receive), self._passed(_asked(scope), body, answer))
        except TimeoutError:
            await answer.fail(late(self.settings.seconds), scope, receive)
        except Stalled:
            return
        except Refusal as refusal:
            await answer.fail(refusal, scope, receive)

    async def _passed(self, asked: Scope, body: bytes, answer: "Answer") -> None:
        for attempt in range(1, TRIES + 1):
            messages = self.pool.ask(asked, body)
            try:
                async for some in messages:
                    await answer.take(some)
                await answer.end()
                return
            except Lost as lost:
                LOG.warning("A replica ended while it answered: %s", str(lost).partition("\n")[0])
                if answer.begun or attempt == TRIES:
                    raise Refusal(502, "The replica that wrote this answer has ended; ask again.",
                                  code="replica_lost", headers={"Retry-After": "1"}) from None  # fmt: skip
                answer.note["tries"] = attempt + 1
                await asyncio.sleep(PAUSE * attempt)
            finally:
                await messages.aclose()


class Answer:
    """What a client gets: nothing until there is something of the body, so that another replica may begin afresh."""

    def __init__(self, stall: float, note: dict[str, Any], send: Send):
        self.stall, self.note, self._send = stall, note, send
        self.begun = self._streaming = False
        self._start: Message | None = None
        self._last: Message | None = None

    async def take(self, messages: list[Message]) -> None:
        for message in messages:
            if message["type"] == NOTE:
                self.note.update(message["note"])
            elif message["type"] == "http.response.start":
                headers = [(name, value) for name, value in message["headers"] if name != b"x-request-id"]
                self._streaming = any(value.startswith(b"text/event-stream") for _, value in headers)
                self._start = {**message, "headers": headers}
            elif message.get("more_body"):
                await self._pass(message)
            else:
                self._last = message

    async def end(self) -> None:
        """Lets go of the last message, which is held until the replica has noted what it had to: a client that has all
        may leave at once."""
        if self._last is not None:
            await self._pass(self._last)

    async def _pass(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self.stall):
                if not self.begun and self._start is not None:
                    self.begun = True
                    await self._send(self._start)
                await self._send(message)
        except TimeoutError:
            raise Stalled from None

    async def fail(self, refusal: Refusal, scope: Scope, receive: Receive) -> None:
        """Tells of an error: as a response of its own, or as the last event of a stream that has begun."""
        self.note["error"] = refusal.code or str(refusal)
        if not self.begun:
            await refusal.response()(scope, receive, self._send)
        elif self._streaming:
            await self._pass({"type": "http.response.body", "body": event(refusal.body()), "more_body": False})


def _asked(scope: Scope) -> Scope:
    """What a replica is told of a request: all but its key, the name of the server and the page that it comes from,
    which the front has looked at, under the name that the front's log gives it."""
    private = (b"authorization", b"x-request-id", b"origin", b"host")
    headers = [(name, value) for name, value in scope["headers"] if name.lower() not in private]
    identity = scope["state"]["identity"].encode()
    return {**{key: scope[key] for key in PASSED if key in scope}, "headers": [*headers, (b"x-request-id", identity)]}
