"""Runs an engine that writes token by token.

A job holds what its reader has not taken yet, at most its whole answer.
"""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from polytask.inference.engine import Engine
from polytask.inference.handle import Event, Handle
from polytask.inference.sequence import Completion, Request
from polytask.serving.refusal import Refusal
from polytask.serving.worker import LOG, Job, Meter, Worker, tell


@dataclass
class Piece:
    """Text of one answer since the last piece, and where they are asked for its ids with the log-probabilities in their
    places; its completion where it has ended."""

    index: int
    text: str
    completion: Completion | None = None
    tokens: list[tuple[int, dict[int, float]]] = field(default_factory=list)


class WritingJob(Job):
    """The requests of one client, and their answers as they are written: iterate, or wait for `result`.

    The answers of requests[i] have the indices i * n to i * n + n - 1.
    """

    def __init__(self, requests: Sequence[Request], seconds: float):
        super().__init__(len(requests), seconds)
        self.requests = list(requests)
        self.handles: dict[Handle, int] = {}  # the worker's
        self._pieces: dict[int, Piece] = {}
        self._left = sum(request.sampling.n for request in requests)

    @property
    def over(self) -> bool:
        return self._error is not None or self._left == 0

    def receive(self, pieces: Sequence[Piece]) -> None:
        """Takes what the worker tells, in the event loop."""
        for piece in pieces:
            kept = self._pieces.setdefault(piece.index, Piece(piece.index, ""))
            kept.text += piece.text
            kept.tokens += piece.tokens
            kept.completion = piece.completion or kept.completion
            self._left -= piece.completion is not None
        self._wake.set()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        while True:
            await self.woken()
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


class Writer(Worker[WritingJob]):
    """waiting: how many requests may wait beside those that run."""

    def __init__(self, engine: Engine, waiting: int, seconds: float, meter: Meter):
        self.engine = engine
        self._jobs: dict[Handle, WritingJob] = {}
        super().__init__(engine.max_requests + waiting, seconds, meter)

    async def submit(self, requests: Sequence[Request]) -> WritingJob:
        """A job of these requests, taken by the engine; see `enter`."""
        if len(requests) > self.limit:
            raise Refusal(400, f"A request of {len(requests)} prompts is more than the {self.limit} that this server "
                               "takes at once; send them in parts.", param="prompt")  # fmt: skip
        return await self.enter(WritingJob(requests, self.seconds))

    @property
    def _busy(self) -> bool:
        return bool(self._jobs)

    def _admit(self, job: WritingJob) -> None:
        try:
            for number, request in enumerate(job.requests):
                job.handles[self.engine.submit(request)] = number
        except BaseException:
            for handle in job.handles:
                handle.cancel()
            raise
        self._jobs |= dict.fromkeys(job.handles, job)
        self.meter.read(sum(len(request.ids) + len(request.encoder_ids or []) for request in job.requests))

    def _withdraw(self, job: WritingJob) -> None:
        for handle in job.handles:
            handle.cancel()
            self._jobs.pop(handle, None)

    def _step(self) -> None:
        try:
            events = self.engine.step()
        except BaseException as error:  # no request's own fault: those that run have no answer any more
            LOG.exception("A step of the engine failed.")
            for job in set(self._jobs.values()):
                self._fail(job, error)
            return
        told: dict[WritingJob, list[Piece]] = {}
        for event in events:
            if (job := self._jobs.get(event.handle)) and event.finish != "error":
                told.setdefault(job, []).append(self._piece(job, event))
            elif job and event.handle.error is not None:
                self._fail(job, event.handle.error)
        for job, pieces in told.items():
            self._measure(job, pieces)
        for loop in {job.loop for job in told}:
            tell(loop, _deliver, [(job, pieces) for job, pieces in told.items() if job.loop is loop])
        for handle in [handle for handle in self._jobs if handle.done]:
            del self._jobs[handle]

    def _piece(self, job: WritingJob, event: Event) -> Piece:
        number = job.handles[event.handle]
        completion = event.handle.completions.get(event.sample) if event.finish else None
        tokens = [event.token] if event.token else []
        return Piece(number * job.requests[number].sampling.n + event.sample, event.text, completion, tokens)

    def _measure(self, job: WritingJob, pieces: Sequence[Piece]) -> None:
        now = time.monotonic()
        (self.meter.first if job.last == job.began else self.meter.between)(now - job.last)
        job.last = now
        self.meter.wrote(sum(len(piece.completion.ids) for piece in pieces if piece.completion))


def _deliver(told: Sequence[tuple[WritingJob, Sequence[Piece]]]) -> None:
    for job, pieces in told:
        job.receive(pieces)
