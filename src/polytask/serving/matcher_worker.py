"""Runs a CLIP: one pass at a time, and those of all clients in turn."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from polytask.serving.refusal import Refusal, late

T = TypeVar("T")


class MatcherWorker:
    """waiting: how many requests may wait beside the one that runs; seconds: what each may take."""

    alive = True  # its thread cannot end by itself

    def __init__(self, waiting: int, seconds: float):
        self.limit, self.seconds = 1 + waiting, seconds
        self.taken = 0  # requests that were let in and have not ended
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="matcher")

    def stats(self) -> dict[str, float]:
        """How many requests run and wait."""
        return {"running": min(self.taken, 1), "waiting": max(self.taken - 1, 0)}

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """The passes of one request. Raises Refusal where the queue is full, or the time over."""
        if self.taken >= self.limit:
            raise Refusal(429, f"The server is busy with {self.taken} requests; try again later.",
                          code="queue_full", headers={"Retry-After": "1"})  # fmt: skip
        self.taken += 1
        try:
            async with asyncio.timeout(self.seconds):
                yield
        except TimeoutError:
            raise late(self.seconds) from None
        finally:
            self.taken -= 1

    async def run(self, function: Callable[[], T]) -> T:
        """What a pass gives; others may have theirs before it."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def close(self) -> None:
        """Stops after the running pass; what is under way is lost."""
        self._thread.shutdown(cancel_futures=True)
