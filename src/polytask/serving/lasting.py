"""A server that ends when what it is answering has ended, or at once where it is told again."""

import math
import os
import socket
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from polytask.serving.connections import Connections

if TYPE_CHECKING:
    from starlette.applications import Starlette


class Lasting(uvicorn.Server):
    """After the first SIGTERM or SIGINT it is not ready any more and takes no new work; it ends when nothing runs, and
    readers have taken what is written or had the time of `stall` for it. The second one ends the process. `app.state`
    has its life, which says how it stands, and its settings."""

    def __init__(self, app: "Starlette", started: Callable[[], None]):
        self.app, self.told = app, started
        limits = app.state.settings
        self.connections = Connections(limits.header, limits.stall, limits.connections)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, ws="none",
            timeout_keep_alive=math.ceil(limits.header), timeout_graceful_shutdown=math.ceil(limits.stall),
        )  # fmt: skip
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.told()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        life = self.app.state.life
        if life.draining:
            os._exit(128 + sig)
        life.draining = True

    async def on_tick(self, counter: int) -> bool:
        life = self.app.state.life
        self.connections.tidy(self.server_state.connections)
        return await super().on_tick(counter) or (life.draining and life.running == 0)
