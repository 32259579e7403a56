"""Builds the C++ source with the machine's compiler, once, and keeps the result in the user's cache folder.

What is loaded into the process must be the user's own: the folder is theirs alone (mode 0700), and so is the file.
"""

import hashlib
import os
import platform
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
    """The file, where it has been built for this source and this CPU. Raises Unbuilt where it cannot be."""
    if sys.platform != "linux":
        raise Unbuilt("kernels are built on Linux alone")
    try:
        place = folder()
        if (place / f"{name()}.log").exists():
            raise Unbuilt(f"the compiler failed: {place / name()}.log says why; remove it to try again")
        path = place / f"{name()}.so"
        found = path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unbuilt(str(error)) from None
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise Unbuilt(f"{path} is not a file of the user's own")
    return path


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
    with tempfile.TemporaryDirectory(prefix=".building-", dir=place) as own:
        made = Path(own) / "made.so"
        words = [compiler, *FLAGS, *map(str, SOURCES), "-o", str(made)]
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=PATIENCE
            )
            said = f"{' '.join(words)}\nended with {done.returncode}\n{done.stderr}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            said = f"{' '.join(words)}\ntook more than {PATIENCE} seconds\n"
        if said or not made.exists():
            (place / f"{name()}.log").write_text(said)
            raise Unbuilt(f"the compiler failed: {place / name()}.log says why; remove it to try again")
        made.chmod(0o700)
        return made.rename(place / f"{name()}.so")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
