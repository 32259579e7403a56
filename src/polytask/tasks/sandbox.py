"""Runs programs that a model wrote against tests, without trusting them.

Each program runs in a process of its own that may compute, read Python's library and answer its tests, no more:
a seccomp filter refuses every other system call (sockets, files open for writing, processes, threads, signals to
others), Landlock hides the files of this machine, limits hold time and memory, and fresh namespaces are a second wall
where the kernel lends them. See jail/confine.py. It needs Linux on x86_64 or aarch64; nothing needs root.

What proves success: the tests run in another process, which alone can report, and only values cross (jail/remote.py).
A program that exits early, prints what it likes, replaces builtins or returns objects that equal everything has not
answered the tests. Limits of that: the tests themselves are trusted; a test that asks a program's own object for its
verdict (`assert obj.ok()`, or == between two objects of the program's classes) believes the answer; tests can lend a
program values and functions but no objects of classes of their own, and cannot await its coroutines; a list that an
attribute of the program's object holds comes as a copy. Programs have one thread, no subprocess, no files and Python's
standard library alone.
"""

import contextlib
import json
import os
import platform
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from polytask.errors import SandboxError

LAUNCHER = Path(__file__).parent / "jail" / "launcher.py"
PATIENCE = 20.0  # seconds beyond a program's own limit after which the launcher itself counts as stuck


@dataclass(frozen=True)
class Result:
    """`passed`: all tests ran and none failed. `reason`: why not, in one line; "" where it passed."""

    passed: bool
    reason: str = ""


@dataclass(frozen=True)
class Means:
    """What this machine has to hold a program in. `missing` must be empty; `namespaces` are a bonus."""

    missing: tuple[str, ...] = ()
    namespaces: bool = False


@cache
def available() -> Means:
    """Tries the walls in a process of their own and says which are missing."""
    if sys.platform != "linux":
        return Means(missing=(f"Linux (this is {platform.system()})",))
    try:
        with _Launcher(open_walls=False) as launcher:
            return Means(tuple(launcher.hello["missing"]), launcher.hello["namespaces"])
    except SandboxError as error:
        return Means(missing=(f"a launcher that starts ({error})",))


def run(
    program: str,
    tests: str,
    *,
    seconds: float = 5.0,
    memory_mb: int = 512,
    unsafe: bool = False,
    means: Means | None = None,
) -> Result:
    """Whether the tests pass against the program. `seconds` are of the clock, `memory_mb` of address space.

    Raises SandboxError where this machine cannot hold the program in, unless `unsafe` says to run it all the same, with
    limits of time and memory alone. `means` stands in for `available()`.
    """
    return run_many([(program, tests)], seconds=seconds, memory_mb=memory_mb, unsafe=unsafe, means=means)[0]


def run_many(
    jobs: Sequence[tuple[str, str]],
    *,
    seconds: float = 5.0,
    memory_mb: int = 512,
    unsafe: bool = False,
    workers: int | None = None,
    means: Means | None = None,
) -> list[Result]:
    """`run` for many (program, tests), in order, on all cores; each takes a few milliseconds beyond its own time."""
    if seconds <= 0 or memory_mb < 64:
        raise SandboxError(f"A program needs time and 64 MB or more; the limits are {seconds} s and {memory_mb} MB.")
    if not jobs:
        return []
    found = means if means is not None else available()
    if found.missing and not unsafe:
        raise SandboxError(
            f"This machine cannot run untrusted programs safely; it lacks: {', '.join(found.missing)}. "
            "Use Linux 5.13 or newer with Landlock and seccomp (a container may have to allow them), "
            "or run them regardless with --unsafe (in Python: Code(unsafe=True))."
        )
    if sys.platform == "win32":
        raise SandboxError("Programs cannot be run on Windows, not even unsafely; use Linux, WSL or a container.")
    queue: SimpleQueue[int] = SimpleQueue()
    for index in range(len(jobs)):
        queue.put(index)
    results: list[Any] = [None] * len(jobs)
    limits = {"seconds": float(seconds), "memory_mb": int(memory_mb)}

    def work() -> None:
        try:
            while not queue.empty():
                with _Launcher(open_walls=bool(found.missing)) as launcher:
                    alive = True
                    while alive:
                        index = queue.get_nowait()
                        try:
                            results[index] = launcher.judge(*jobs[index], limits)
                        except SandboxError as error:  # the program's doing; the next ones get a new launcher
                            results[index], alive = Result(False, str(error)), False
        except Empty:
            return
        except SandboxError as error:
            failures.append(error)

    failures: list[SandboxError] = []
    count = min(len(jobs), workers or os.cpu_count() or 1)
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


class _Launcher:
    """A launcher process and its frames; leaving the context ends it and all that it started."""

    def __init__(self, open_walls: bool):
        libraries = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(LAUNCHER), *(["open"] if open_walls else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=libraries,
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
        try:
            self.hello = self._receive(PATIENCE)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "_Launcher":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def judge(self, program: str, tests: str, limits: dict[str, Any]) -> Result:
        for text in (json.dumps(limits), tests, program):
            self._send(text.encode("utf-8", "surrogatepass"))
        answer = self._receive(limits["seconds"] + PATIENCE)
        return Result(answer["passed"], answer["reason"])

    def _send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        view = memoryview(struct.pack("=I", len(data)) + data)
        try:
            while view:
                view = view[self.process.stdin.write(view) or 0 :]
        except OSError as error:
            raise SandboxError(f"The sandbox's launcher ended: {error}.") from None

    def _receive(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        (size,) = struct.unpack("=I", self._read(4, deadline))
        return json.loads(self._read(size, deadline))

    def _read(self, size: int, deadline: float) -> bytes:
        assert self.process.stdout is not None
        descriptor, parts = self.process.stdout.fileno(), b""
        while len(parts) < size:
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise SandboxError("The sandbox's launcher does not answer.")
            part = os.read(descriptor, size - len(parts))
            if not part:
                raise SandboxError("The sandbox's launcher ended before it answered.")
            parts += part
        return parts
