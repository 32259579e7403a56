"""One thread a model runs its engine; the event loop hands requests in and takes pieces of answers out.

Neither waits for the other: what comes in lies in an inbox until the running step ends, and what comes out is told to
the event loop once a step. A job holds what its reader has not taken yet, at most its whole answer.
"""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from polytask.inference.engine import Engine
from polytask.inference.handle import Event, Handle
from polytask.inference.sequence import Completion, Request
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


@dataclass
class Piece:
    """Text of one answer since the last piece, and where they are asked for its ids with the log-probabilities in their
    places; its completion where it has ended."""

    index: int
    text: str
    completion: Completion | None = None
    tokens: list[tuple[int, dict[int, float]]] = field(default_factory=list)


class Job:
    """The requests of one client, and their answers as they are written: iterate, or wait for `result`.

    The answers of requests[i] have the indices i * n to i * n + n - 1. seconds: what all may take together. until: as
    of `Worker.submit`.
    """

    def __init__(self, requests: Sequence[Request], seconds: float, until: float | None = None):
        self.requests, self.seconds, self.nested = list(requests), seconds, until is not None
        self.loop = asyncio.get_running_loop()
        self.until = self.loop.time() + seconds if until is None else until
        self.room = 0  # that it takes of the worker's queue
        self.accepted: asyncio.Future[None] = self.loop.create_future()
        self.began = self.last = time.monotonic()  # the worker's, as is what follows
        self.handles: dict[Handle, int] = {}
        self._pieces: dict[int, Piece] = {}
        self._left = sum(request.sampling.n for request in requests)
        self._error: BaseException | None = None
        self._wake = asyncio.Event()

    @property
    def over(self) -> bool:
        return self._error is not None or self._left == 0

    def receive(self, pieces: Sequence[Piece], error: BaseException | None = None) -> None:
        """Takes what the worker tells, in the event loop."""
        for piece in pieces:
            kept = self._pieces.setdefault(piece.index, Piece(piece.index, ""))
            kept.text += piece.text
            kept.tokens += piece.tokens
            kept.completion = piece.completion or kept.completion
            self._left -= piece.completion is not None
        self._error = self._error or error
        self._wake.set()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        while True:
            try:
                async with asyncio.timeout_at(self.until):
                    await self._wake.wait()
            except TimeoutError:
                raise late(self.seconds) from None
            self._wake.clear()
            pieces, self._pieces = self._pieces, {}
            for index in sorted(pieces):
                yield pieces[index]
            if self._error is not None:
                raise self._error
            if self._left == 0 and not self._pieces:
                return

    async def result(self) -> list[Completion]:
        """All answers, by their index."""
        found = {piece.index: piece.completion async for piece in self if piece.completion is not None}
        return [found[index] for index in sorted(found)]


class Worker:
    """Runs an engine. waiting: how many answers may wait beside those that run; seconds: what a request may take."""

    def __init__(self, engine: Engine, waiting: int, seconds: float, meter: Meter):
        self.engine, self.limit, self.seconds, self.meter = engine, engine.max_requests + waiting, seconds, meter
        self.taken = 0  # room of requests that were let in and have not ended; the event loop's
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._calls: deque[Callable[[], None]] = deque()
        self._jobs: dict[Handle, Job] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    # In the event loop

    async def submit(self, requests: Sequence[Request], until: float | None = None) -> Job:
        """Hands requests in; returns when the engine has taken them. Raises Refusal where the queue is full, and what
        the engine raises. Who submits must `release` the job in the end.

        until: when the time of a client ends who holds room already; these take none, and he is counted elsewhere.
        """
        job = Job(requests, self.seconds, until)
        if not job.nested:  # more samples than the engine writes at once come after each other
            job.room = self._let_in(sum(min(one.sampling.samples, self.engine.max_requests) for one in requests))
        self._inbox.put(lambda: self._admit(job))
        try:
            await job.accepted
        except BaseException:
            self.release(job)
            raise
        return job

    def release(self, job: Job) -> None:
        """Ends a job that a client has left; nothing more than a count where it is over."""
        self.taken -= job.room
        if not job.over:
            self._inbox.put(lambda: self._withdraw(job))

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[float]:
        """The calls of one request, which take their place in the queue; when its time ends. Raises Refusal where the
        queue is full."""
        room = self._let_in(1)
        try:
            yield asyncio.get_running_loop().time() + self.seconds
        finally:
            self.taken -= room

    def _let_in(self, answers: int) -> int:
        """Takes room for so many answers. Raises Refusal where there is none."""
        if answers > self.limit:
            raise Refusal(400, f"A request of {answers} answers is more than the {self.limit} that this server takes "
                               "at once; send it in parts.", param="prompt")  # fmt: skip
        if self.taken + answers > self.limit:
            raise Refusal(429, f"The server is busy with {self.taken} answers; try again later.",
                          code="queue_full", headers={"Retry-After": "1"})  # fmt: skip
        self.taken += answers
        return answers

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
                _tell(loop, _settle, future, None, error)
            else:
                _tell(loop, _settle, future, value, None)

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

    def _run(self) -> None:
        while not self._closed:
            if not self._jobs and not self._calls:
                self._inbox.get()()
            while not self._inbox.empty():
                self._inbox.get()()
            if self._calls:
                self._calls.popleft()()
            if self._jobs:
                self._step()

    def _admit(self, job: Job) -> None:
        try:
            for number, request in enumerate(job.requests):
                job.handles[self.engine.submit(request)] = number
        except BaseException as error:
            for handle in job.handles:
                handle.cancel()
            _tell(job.loop, _settle, job.accepted, None, error)
            return
        self._jobs |= dict.fromkeys(job.handles, job)
        if not job.nested:
            self.meter.read(sum(request.read for request in job.requests))
        _tell(job.loop, _settle, job.accepted, None, None)

    def _withdraw(self, job: Job) -> None:
        for handle in job.handles:
            known = set(handle.completions)
            handle.cancel()
            self._jobs.pop(handle, None)
            self.meter.wrote(sum(_wrote(one) for i, one in handle.completions.items() if i not in known))

    def _step(self) -> None:
        try:
            events = self.engine.step()
        except BaseException as error:  # no request's own fault: those that run have no answer any more
            LOG.exception("A step of the engine failed.")
            for job in set(self._jobs.values()):
                self._fail(job, error)
            return
        told: dict[Job, list[Piece]] = {}
        for event in events:
            if (job := self._jobs.get(event.handle)) and event.finish != "error":
                told.setdefault(job, []).append(self._piece(job, event))
            elif job and event.handle.error is not None:
                self._fail(job, event.handle.error)
        for job, pieces in told.items():
            if not job.nested:
                self._measure(job, pieces)
        for loop in {job.loop for job in told}:
            _tell(loop, _deliver, [(job, pieces) for job, pieces in told.items() if job.loop is loop])
        for handle in [handle for handle in self._jobs if handle.done]:
            del self._jobs[handle]

    def _piece(self, job: Job, event: Event) -> Piece:
        number = job.handles[event.handle]
        completion = event.handle.completions.get(event.sample) if event.finish else None
        tokens = [event.token] if event.token else []
        return Piece(number * job.requests[number].sampling.n + event.sample, event.text, completion, tokens)

    def _fail(self, job: Job, error: BaseException) -> None:
        self._withdraw(job)
        _tell(job.loop, job.receive, [], error)

    def _measure(self, job: Job, pieces: Sequence[Piece]) -> None:
        now = time.monotonic()
        (self.meter.first if job.last == job.began else self.meter.between)(now - job.last)
        job.last = now
        self.meter.wrote(sum(_wrote(piece.completion) for piece in pieces if piece.completion))


def _wrote(completion: Completion) -> int:
    return 0 if completion.scored else len(completion.ids)


def _deliver(told: Sequence[tuple[Job, Sequence[Piece]]]) -> None:
    for job, pieces in told:
        job.receive(pieces)


def _settle(future: asyncio.Future, value: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)


def _tell(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *words: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop may have ended, and with it all who could read
        loop.call_soon_threadsafe(function, *words)
