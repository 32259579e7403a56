"""Runs a model that draws by diffusion: each client in a thread, and the pictures of all in the same passes."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from polytask.inference.images import Share
from polytask.pictures import PictureModel
from polytask.serving.refusal import Refusal, late
from polytask.serving.worker import Meter

if TYPE_CHECKING:
    from PIL.Image import Image


class PictureWorker:
    """waiting: how many pictures may wait beside those that run; seconds: what each request may take."""

    alive = True  # no thread of its own could end

    def __init__(self, model: PictureModel, waiting: int, seconds: float, meter: Meter):
        self.model, self.engines, self.seconds, self.meter = model, model.engines, seconds, meter
        self.limit = self.engines[0].max_requests + waiting
        self.taken = 0  # pictures that were let in and have not ended
        self._shares = set[Share]()
        self._threads = ThreadPoolExecutor(self.limit, thread_name_prefix="painter")

    def stats(self) -> dict[str, float]:
        """How many pictures run and wait, of all stages."""
        stats = [engine.stats() for engine in self.engines]
        return {"running": sum(one.running for one in stats), "waiting": sum(one.waiting for one in stats)}

    async def paint(self, draw: "Callable[[PictureModel], list[Image]]", pictures: int) -> "list[Image]":
        """What a function draws, so many pictures; all of it ends where this is cancelled. Raises Refusal where the
        queue is full or the time over, and what the function raises."""
        if self.taken + pictures > self.limit:
            raise Refusal(429, f"The server is busy with {self.taken} pictures; try again later.",
                          code="queue_full", headers={"Retry-After": "1"})  # fmt: skip
        self.taken += pictures
        model, shares = self.model.shared()
        self._shares.update(shares)
        drawing = asyncio.get_running_loop().run_in_executor(self._threads, draw, model)
        # Its error is asked for even where nobody waits for it any more, or asyncio would log it.
        drawing.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        try:
            async with asyncio.timeout(self.seconds):
                drawn = await asyncio.shield(drawing)
        except TimeoutError:
            raise late(self.seconds) from None
        finally:
            for share in shares:
                share.end()
            self._shares.difference_update(shares)
            self.taken -= pictures
        self.meter.drew(len(drawn))
        return drawn

    def close(self) -> None:
        """Stops all drawing after the running step; what is under way is lost."""
        for share in list(self._shares):
            share.end()
        self._threads.shutdown()
