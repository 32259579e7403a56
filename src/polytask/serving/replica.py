"""One replica of the app: a process with its own models and engines, asked by messages in place of a socket."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.types import Message, Scope

from polytask.errors import Error
from polytask.serving.app import create_app
from polytask.serving.front import NOTE
from polytask.serving.server import load, settle
from polytask.serving.settings import Settings

PERIOD = 2.0  # seconds from telling the figures to telling them again
FRESH = 5 * PERIOD  # older ones are of a replica that has ended


class Board:
    """Where replicas tell their figures, what they hold, and why they could not start."""

    def __init__(self) -> None:
        self.mistake, self._held = "", dict[str, str]()
        self._told: dict[str, tuple[float, bytes]] = {}

    def tell(self, replica: str, text: bytes) -> None:
        self._told[replica] = (time.monotonic(), text)

    def fail(self, mistake: str) -> None:
        self.mistake = mistake

    def failure(self) -> str:
        return self.mistake

    def hold(self, models: dict[str, str]) -> None:
        self._held = models

    def held(self) -> dict[str, str]:
        """What the models of a replica hold in memory, in words."""
        return self._held

    def figures(self) -> dict[str, bytes]:
        """The newest figures of each replica that still tells them."""
        ends = time.monotonic() - FRESH
        self._told = {name: (when, text) for name, (when, text) in self._told.items() if when > ends}
        return {name: text for name, (_, text) in sorted(self._told.items())}


class Replica:
    """board: the handle of a Board that runs elsewhere; alone: whether all replicas are on this machine.

    Raises CheckpointError, and tells the board of it.
    """

    def __init__(
        self, paths: Mapping[str, str], loading: Mapping[str, Any], settings: Settings, board: Any, alone: bool
    ):  # fmt: skip
        import ray
        from ray import serve

        if alone:
            _stay_inside()
        self.name, self.board = serve.get_replica_context().replica_id.unique_id, board
        try:
            self.app = create_app(load(paths, loading), settings)
            settle()
        except Error as error:
            board.fail.remote(str(error))
            raise
        ray.get(board.hold.remote(self.app.state.shelf.held()))  # before the front asks for it
        self._running: set[asyncio.Task[None]] = set()
        threading.Thread(target=self._tell, name="figures", daemon=True).start()

    def _tell(self) -> None:
        while True:
            self.board.tell.remote(self.name, self.app.state.figures.text())
            time.sleep(PERIOD)

    def check_health(self) -> None:
        """Raises where the thread of a model has ended, upon which Ray Serve replaces this replica."""
        dead = [served.name for served in self.app.state.shelf if not served.worker.alive]
        if dead:
            raise RuntimeError(f"The threads of these models have ended: {', '.join(dead)}")

    async def ask(self, scope: Scope, body: bytes) -> AsyncGenerator[list[Message], None]:
        """Answers one request: the messages of ASGI, as many at a time as there are, and what was noted of it last.
        Where the reader leaves, the app is told that the client has left."""
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        left = asyncio.Event()
        sent = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Message:
            with contextlib.suppress(StopIteration):
                return next(sent)
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            messages.put_nowait(message)

        state: dict[str, Any] = {}
        running = asyncio.ensure_future(self.app({**scope, "state": state}, receive, send))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        running.add_done_callback(lambda _: messages.put_nowait(None))
        try:
            while (some := await _waiting(messages))[-1] is not None:
                yield some
            await running
            yield [*some[:-1], {"type": NOTE, "note": {**state.get("note", {}), "replica": self.name}}]
        finally:
            left.set()


def _stay_inside() -> None:
    """Keeps the port at which Ray Serve lets replicas call each other to this machine. Ray opens it at all addresses
    after a replica is made, and has no setting for it."""
    from ray.serve._private import replica

    bind = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, _: bind(server, "127.0.0.1:0")


async def _waiting(messages: "asyncio.Queue[Message | None]") -> list[Any]:
    """All that waits, at least one."""
    some = [await messages.get()]
    while not messages.empty():
        some.append(messages.get_nowait())
    return some
