"""One thread a model runs its engine; the event loop hands jobs in and takes what came of them out.

Neither waits for the other: what comes in lies in an inbox until the running step ends, and what comes out is told to
the event loop once a step. `writer` runs engines that write, `painter` those that draw by diffusion.
"""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from polytask.serving.refusal import Refusal, late

LOG = logging.getLogger("polytask.serving")
T = TypeVar("T")


class Meter(Protocol):
    """Who counts what a worker does."""

    def read(self, tokens: int) -> None: ...
    def first(self, seconds: float) -> None: ...
    def between(self, seconds: float) -> None: ...
    def wrote(self, tokens: int) -> None: ...
    def drew(self, pictures: int) -> None: ...


class Job(ABC):
    """What one client has asked for. size: places that it takes among those that run and wait; seconds: what all of it
    may take together."""

    def __init__(self, size: int, seconds: float):
        self.size, self.seconds = size, seconds
        self.loop = asyncio.get_running_loop()
        self.until = self.loop.time() + seconds
        self.accepted: asyncio.Future[None] = self.loop.create_future()
        self.began = self.last = time.monotonic()  # the worker's
        self._error: BaseException | None = None
        self._wake = asyncio.Event()

    @property
    @abstractmethod
    def over(self) -> bool:
        """Whether nothing more will come."""

    def fail(self, error: BaseException) -> None:
        """Takes what has ended it, in the event loop."""
        self._error = self._error or error
        self._wake.set()

    async def woken(self) -> None:
        """Returns when there is something new. Raises Refusal when the time is over."""
        try:
            async with asyncio.timeout_at(self.until):
                await self._wake.wait()
        except TimeoutError:
            raise late(self.seconds) from None
        self._wake.clear()


J = TypeVar("J", bound=Job)


class Worker(ABC, Generic[J]):
    """limit: places of all jobs together; seconds: what each may take."""

    def __init__(self, limit: int, seconds: float, meter: Meter):
        self.limit, self.seconds, self.meter = limit, seconds, meter
        self.taken = 0  # places of jobs that were let in and have not ended; the event loop's
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._calls: deque[Callable[[], None]] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    # In the event loop

    async def enter(self, job: J) -> J:
        """Hands a job in; returns when the engine has taken it. Raises Refusal where the queue is full, and what the
        engine raises. Who enters a job must `release` it in the end."""
        if self.taken + job.size > self.limit:
            raise Refusal(429, f"The server is busy with {self.taken} requests; try again later.",
                          code="queue_full", headers={"Retry-After": "1"})  # fmt: skip
        self.taken += job.size
        self._inbox.put(lambda: self._take(job))
        try:
            await job.accepted
        except BaseException:
            self.release(job)
            raise
        return job

    def release(self, job: J) -> None:
        """Ends a job that a client has left; nothing more than a count where it is over."""
        self.taken -= job.size
        if not job.over:
            self._inbox.put(lambda: self._withdraw(job))

    async def call(self, function: Callable[[], T]) -> T:
        """What a function of the network gives, run between two steps."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                value = function()
            except BaseException as error:
                tell(loop, _settle, future, None, error)
            else:
                tell(loop, _settle, future, value, None)

        self._inbox.put(lambda: self._calls.append(run))
        try:
            async with asyncio.timeout(self.seconds):
                return await future
        except TimeoutError:
            raise late(self.seconds) from None

    def close(self) -> None:
        """Stops the thread after the running step; what is under way is lost."""
        self._inbox.put(lambda: setattr(self, "_closed", True))
        self._thread.join()

    # In the thread

    @property
    @abstractmethod
    def _busy(self) -> bool:
        """Whether a step would do anything."""

    @abstractmethod
    def _admit(self, job: J) -> None:
        """Gives the engine what a job asks; what raises leaves nothing behind."""

    @abstractmethod
    def _withdraw(self, job: J) -> None:
        """Takes back whatever of a job the engine still has."""

    @abstractmethod
    def _step(self) -> None: ...

    def _run(self) -> None:
        while not self._closed:
            if not self._busy and not self._calls:
                self._inbox.get()()
            while not self._inbox.empty():
                self._inbox.get()()
            if self._calls:
                self._calls.popleft()()
            if self._busy:
                self._step()

    def _take(self, job: J) -> None:
        try:
            self._admit(job)
        except BaseException as error:
            tell(job.loop, _settle, job.accepted, None, error)
        else:
            tell(job.loop, _settle, job.accepted, None, None)

    def _fail(self, job: J, error: BaseException) -> None:
        self._withdraw(job)
        tell(job.loop, job.fail, error)


def _settle(future: asyncio.Future, value: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)


def tell(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *words: Any) -> None:
    """Calls a function in the event loop, if that still runs."""
    with contextlib.suppress(RuntimeError):  # the loop may have ended, and with it all who could read
        loop.call_soon_threadsafe(function, *words)
