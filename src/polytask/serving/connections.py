"""How long a connection may stay open without a request on it, and how many there may be.

uvicorn itself closes those alone that send nothing after an answer: one that sends its header byte by byte would stay.
"""

import time
from collections.abc import Collection
from typing import Any


class Connections:
    """seconds: how long the header of a request may take, and the rest between two; stall: how long a reader may take
    nothing of an answer that is written; most: how many may be open."""

    def __init__(self, seconds: float, stall: float, most: int):
        self.seconds, self.stall, self.most = seconds, stall, most
        self._since: dict[Any, tuple[Any, float]] = {}

    def tidy(self, opened: Collection[Any]) -> None:
        """Closes those of uvicorn's connections on which nothing is asked for too long, and where there are too many
        those that wait longest."""
        now, before = time.monotonic(), self._since
        waiting = {each: (each.cycle, each.transport.get_write_buffer_size()) for each in opened if _waits(each)}
        # An answer that a slow reader still takes is written already: what is left of it changes while he does.
        self._since = {
            each: before[each] if each in before and before[each][0] == state else (state, now)
            for each, state in waiting.items()
        }
        waited = {
            each: now - since for each, (_, since) in self._since.items() if since < now
        }  # a new one has its turn
        oldest = sorted(waited, key=waited.__getitem__, reverse=True)
        late = [each for each in oldest if waited[each] > (self.stall if waiting[each][1] else self.seconds)]
        for each in {*late, *oldest[: max(len(opened) - self.most, 0)]}:
            each.transport.abort()


def _waits(connection: Any) -> bool:
    """Whether the header of its next request has not come, or none will come: uvicorn's two implementations both say it
    so. One that closes with an answer cut short stays open until its reader has taken what is written."""
    return connection.cycle is None or connection.cycle.response_complete or connection.transport.is_closing()
