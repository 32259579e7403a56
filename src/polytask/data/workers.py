"""Processes that tokenize, one a core, answering in the order of the questions.

The tokenizer's own threads are not enough on many cores: what Python does around them (building segments, copying ids
into arrays) runs on one, and soon is the slower part.
"""

import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from polytask.data.tokenize import Side, receive_answer, send, tokenize
from polytask.errors import DataError
from polytask.tasks import get_task

if TYPE_CHECKING:
    from polytask.tasks.task import Task
    from polytask.tokenizers.dropout import Dropout
    from polytask.tokenizers.text import TextTokenizer

Rows = list[dict[str, Any]]
Answer = tuple[Side, Side, list[str]]  # what `tokenize` returns
_SMALL = 2  # batches that are quicker done here than by processes that must start first


class Workers:
    """Tokenizes batches of rows; a context manager that ends its processes."""

    def __init__(
        self, task: "str | Task", tokenizer: "TextTokenizer", holdout: float, cores: int | None = None,
        dropout: "Dropout | None" = None, together: int = 1,
    ):  # fmt: skip
        self._together = together
        self._name, self._tokenizer, self._holdout, self._dropout = task, tokenizer, holdout, dropout
        self._task = get_task(task) if isinstance(task, str) else task
        # A task that a user's script defines or registers exists in this process alone.
        known = isinstance(task, str) and type(self._task).__module__.startswith("polytask.")
        alone = not known or tokenizer.pictures is not None  # a network is not sent to other processes
        self._cores = 1 if alone else cores or _cores()
        self._processes: list[subprocess.Popen] = []
        self._idle: SimpleQueue[subprocess.Popen] = SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.wait()

    def map(self, batches: Iterable[Rows]) -> Iterator[tuple[int, Answer]]:
        """(number of rows, their documents) of each batch, in order."""
        waiting: deque[tuple[int, Future]] = deque()
        first = 0
        for index, batch in enumerate(batches):
            if index < _SMALL or self._cores < 2:
                yield len(batch), self._here(batch, first)
            else:
                if self._threads is None:
                    self._start()
                assert self._threads is not None
                waiting.append((len(batch), self._threads.submit(self._ask, batch, first)))
                # Enough lies ready that no core waits, and memory stays bounded.
                if len(waiting) > 2 * self._cores:
                    count, answer = waiting.popleft()
                    yield count, answer.result()
            first += len(batch)
        for count, answer in waiting:
            yield count, answer.result()

    def _here(self, batch: Rows, first: int) -> Answer:
        return tokenize(batch, first, self._task, self._tokenizer, self._holdout, self._dropout, self._together)

    def _start(self) -> None:
        self._threads = ThreadPoolExecutor(self._cores)
        paths = [path or os.getcwd() for path in sys.path]  # what can be imported here can be there
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        for _ in range(self._cores):
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "polytask.data.tokenize"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
            self._processes.append(process)
            assert process.stdin is not None
            about = {"task": self._name, "tokenizer": self._tokenizer.to_json(), "share": self._holdout}
            about |= {"dropout": self._dropout and vars(self._dropout), "together": self._together}
            send(process.stdin, about)
            self._idle.put(process)

    def _ask(self, batch: Rows, first: int) -> Answer:
        process = self._idle.get()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            send(process.stdin, {"rows": batch, "first": first})
            return receive_answer(process.stdout)
        except TypeError:  # a row holds what JSON cannot: a date, bytes; nothing was sent
            return self._here(batch, first)
        except (OSError, EOFError) as error:
            raise DataError("A tokenizing process ended early, most likely for want of memory; try again.") from error
        finally:
            self._idle.put(process)


def _cores() -> int:
    """Cores that this process may use; a container or `taskset` may give fewer than there are."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
