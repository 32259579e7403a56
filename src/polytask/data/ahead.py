"""Batches made by a thread while the step before is computed."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def made_ahead(make: Callable[[int], T], steps: range, ahead: int) -> Iterator[T]:
    """`make(step)` of every step, made up to `ahead` steps before it is asked for; 0: when it is."""
    if ahead < 1:
        yield from map(make, steps)
        return
    ready: queue.Queue = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def work() -> None:
        for step in steps:
            try:
                item = make(step)
            except BaseException as error:  # raised again where the batch is asked for
                item = error
            while not stopped.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if stopped.is_set() or isinstance(item, BaseException):
                return

    thread = threading.Thread(target=work, name="polytask-loader", daemon=True)
    thread.start()
    try:
        for _ in steps:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
