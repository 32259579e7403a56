"""Builds the C++ source with the machine's compiler, once, and keeps the result in the user's cache folder.

What is loaded into the process must be the user's own: the folder is theirs alone (mode 0700), and so is the file.
"""

import hashlib
import os
import platform
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from polytask import runtime

SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-exceptions", "-fPIC",
    "-shared",
)  # fmt: skip
PATIENCE = 300  # seconds for a compiler on a busy machine; it takes some 4
# Said of what may be otherwise the next time.
PASSING = ("Killed signal", "out of memory", "memory exhausted", "Cannot allocate", "No space left", "quota")


class Unbuilt(Exception):
    """There are no kernels here; the sentence says why."""


def folder() -> Path:
    """Where the kernels are kept, which only the user may enter. Raises Unbuilt where there is no such place."""
    try:
        place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "polytask" / "kernels"
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = place.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise Unbuilt(f"{place} belongs to somebody else")
        if stat.S_IMODE(found.st_mode) != 0o700:
            place.chmod(0o700)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        raise Unbuilt(f"there is no cache folder: {error}") from None
    return place


@cache
def name() -> str:
    """What the built file is called: a digest of the source, the flags and the CPU."""
    digest = hashlib.sha256()
    sources = [path.read_bytes() for path in (*SOURCES, *HEADERS)]
    for part in (*sources, " ".join(FLAGS).encode(), _cpu().encode()):
        digest.update(hashlib.sha256(part).digest())
    return f"kernels-{digest.hexdigest()[:32]}"


def _cpu() -> str:
    """The CPU's model and instructions, by which -march=native decides."""
    lines = [platform.machine(), platform.system()]
    try:
        kinds = ("model name", "flags", "Features", "CPU implementer", "CPU part")
        for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
            lines += [line] if line.startswith(kinds) else []
    except OSError:
        lines.append(platform.processor())
    return "\n".join(lines)


def built() -> Path | None:
    """The file, where it has been built for this source and this CPU and is whole. Raises Unbuilt where it cannot be
    built."""
    if sys.platform != "linux":
        raise Unbuilt("kernels are built on Linux alone")
    try:
        path = folder() / f"{name()}.so"
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
            raise Unbuilt(f"{path} is not a file of the user's own")
        return path if _whole(path) else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unbuilt(str(error)) from None


def _seal(path: Path) -> None:
    """Puts a digest behind a built file, where no loader looks, and both on the disk: a machine that loses its power
    may keep the file's name and a part of it."""
    digest = hashlib.sha256(path.read_bytes()).digest()
    with path.open("ab") as file:
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())


def _whole(path: Path) -> bool:
    """Whether a file is as it was sealed; less than a millisecond."""
    held, size = path.read_bytes(), hashlib.sha256().digest_size
    return held[-size:] == hashlib.sha256(held[:-size]).digest()


def build() -> Path:
    """The file, built now if need be; several processes build it once. Raises Unbuilt."""
    if (path := built()) is not None:
        return path
    compiler = runtime.compiler() if SOURCES else ""
    if not compiler:
        raise Unbuilt("there is no C++ compiler")
    place = folder()
    try:
        with _locked(place / "lock"):
            if (path := built()) is not None:
                return path
            return _compile(compiler, place)
    except OSError as error:
        raise Unbuilt(f"{place}: {error.strerror}") from None


def _compile(compiler: str, place: Path) -> Path:
    """Raises Unbuilt, and asks this compiler never again where it was the source that it did not take."""
    log = place / f"{name()}-{_identity(compiler)}.log"
    failed = Unbuilt(f"the compiler failed: {log} says why; remove it to try again")
    if log.exists():
        raise failed
    with tempfile.TemporaryDirectory(prefix=".building-", dir=place) as own:
        made = Path(own) / "made.so"
        words = [compiler, *FLAGS, *map(str, SOURCES), "-o", str(made)]
        code, said = _asked(words)
        if code == 0 and made.exists():
            _seal(made)
            made.chmod(0o700)
            return made.rename(place / f"{name()}.so")
        why = next((line for line in said.splitlines() if any(sign in line for sign in PASSING)), "")
        if code < 0 or why:
            raise Unbuilt(f"the compiler was stopped ({why or f'signal {-code}'}); the next start asks it again")
        log.write_text(f"{' '.join(words)}\nended with {code}\n{said}")
        raise failed


def _identity(compiler: str) -> str:
    """Another compiler's, or another version's, is another."""
    found = os.stat(compiler)
    return hashlib.sha256(repr((compiler, found.st_size, found.st_mtime_ns)).encode()).hexdigest()[:8]


def _asked(words: list[str]) -> tuple[int, str]:
    """How the compiler ended, and what it said. It has a session of its own, so that Ctrl-C does not end it: what it
    makes is for the next start, too."""
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        errors="replace", start_new_session=True, env=os.environ | {"LC_ALL": "C"},
    ) as job:  # fmt: skip
        try:
            said = job.communicate(timeout=PATIENCE)[1]
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)  # the compiler proper is a child of what was asked
            raise Unbuilt(f"the compiler took more than {PATIENCE} seconds; the next start asks it again") from None
        return job.returncode, said


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
