"""What `submit` gives back, and what a step reports."""

import queue
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from polytask.inference.sequence import Completion, Finish, Request

R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Event:
    """A piece of an answer: of which request and sample, its text, and why the answer ended where it did. token: the id
    that was taken and the log-probabilities in its place, where the request asks for them."""

    handle: "Handle"
    sample: int
    text: str
    finish: Finish | None = None
    token: tuple[int, dict[int, float]] | None = None


def _nothing(*_: object) -> None:
    """What a handle does once its request has ended."""


@dataclass(eq=False)
class Handle:
    """A request under way: wait for its answers, iterate over the text of the first, or cancel it.

    Whoever waits runs the engine's steps; several threads may wait at once.
    """

    request: Request
    step: Callable[[], object]
    withdraw: Callable[["Handle"], None]
    completions: dict[int, Completion] = field(default_factory=dict)
    error: BaseException | None = None
    _ranked: list[Completion] = field(default_factory=list)
    _pieces: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)

    @property
    def done(self) -> bool:
        return self.error is not None or len(self.completions) == self.request.sampling.n

    def result(self) -> list[Completion]:
        """All samples, in order. Raises what ended the request where the engine failed."""
        while not self.done:
            self.step()
        if self.error is not None:
            raise self.error
        return [self.completions[sample] for sample in range(self.request.sampling.n)]

    def __iter__(self) -> Iterator[str]:
        while True:
            while self._pieces.empty():
                self.step()
            piece = self._pieces.get()
            if piece is None:
                self._pieces.put(None)  # for whoever asks again
                if self.error is not None:
                    raise self.error
                return
            yield piece

    def cancel(self) -> None:
        """Ends the request; what it held is free at once, and what was written stays in its completions."""
        self.withdraw(self)

    def write(self, sample: int, text: str) -> None:
        """Passes a piece on to who iterates; that is always the first sample."""
        if text and sample == 0:
            self._pieces.put(text)

    def complete(self, sample: int, completion: Completion) -> None:
        self.completions[sample] = completion
        if sample == 0:
            self._pieces.put(None)
        if self.done:
            self._let_go()

    def rank(self, completion: Completion) -> list[Completion]:
        """Takes one of `best_of` answers; once all have come, the best n of them in order."""
        self._ranked.append(completion)
        if len(self._ranked) < self.request.sampling.samples:
            return []
        return sorted(self._ranked, key=lambda one: -one.mean)[: self.request.sampling.n]

    def fail(self, error: BaseException) -> None:
        self.error = error
        self._pieces.put(None)
        self._let_go()

    def _let_go(self) -> None:
        """Of the engine. A group and its sequences hold each other, and through the handle they would keep the engine
        and its cache, gigabytes perhaps, until Python looks for such circles."""
        self.step = self.withdraw = _nothing


class Awaited(Protocol[T_co]):
    """What `answers_of` needs of a handle."""

    def result(self) -> T_co: ...

    def cancel(self) -> None: ...


def answers_of(submit: Callable[[R], Awaited[T_co]], requests: Iterable[R]) -> list[T_co]:
    """What comes of each request, in order; all are cancelled where one cannot be taken or fails."""
    handles: list[Awaited[T_co]] = []
    try:
        for request in requests:
            handles.append(submit(request))
        return [handle.result() for handle in handles]
    except BaseException:
        for handle in handles:
            handle.cancel()
        raise
