"""What the benchmarks share: contenders in processes of their own, medians, and where results go."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
RESULT = "RESULT "  # begins the line in which a process says its figures


class Report:
    """Prints what it is told and keeps it; `save` leaves it as NAME.txt beside the figures in NAME.json."""

    def __init__(self, name: str, out: Path = RESULTS):
        self.name, self.out, self.lines = name, out, []
        self.say(f"{name}, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC")
        self.machine = machine()
        self.say(", ".join(f"{key} {value}" for key, value in self.machine.items()))

    def say(self, line: str = "") -> None:
        print(line, flush=True)
        self.lines.append(line)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        for row in [head, *rows]:
            first, *rest = (cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
            self.say("  ".join([first, *rest]))

    def save(self, figures: Mapping[str, Any]) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        everything = {"machine": self.machine, **figures}
        (self.out / f"{self.name}.json").write_text(json.dumps(everything, indent=1) + "\n")
        (self.out / f"{self.name}.txt").write_text("\n".join(self.lines) + "\n")
        print(f"kept in {self.out / self.name}.json and .txt")

    def bars(self, values: Mapping[str, float], label: str) -> None:
        """A bar for each contender, ours in another colour."""
        plot = pyplot()
        figure, axes = plot.subplots(figsize=(7, 0.5 * len(values) + 1.2))
        names = list(values)[::-1]
        colors = ["tab:orange" if name.startswith("polytask") else "tab:gray" for name in names]
        axes.barh(names, [values[name] for name in names], color=colors)
        axes.set_xlabel(label)
        self.picture(figure)

    def picture(self, figure: Any) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        figure.tight_layout()
        figure.savefig(self.out / f"{self.name}.png", dpi=120)


def pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def machine() -> dict[str, Any]:
    """What the figures depend on; the load says whether others were at work."""
    from importlib.metadata import version

    from polytask import runtime

    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    return _gpu() | {
        "cpu": cpu or platform.machine(),
        "threads": int(os.environ.get("OMP_NUM_THREADS") or runtime.cores()),
        "load": round(os.getloadavg()[0], 2),
        "torch": version("torch"),
    }


def _gpu() -> dict[str, str]:
    import torch

    if not torch.cuda.is_available():
        return {}
    return {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda or ""}


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def memory(name: str) -> int:
    """Bytes of this process: "VmRSS" now, "VmHWM" at its peak. 0 where the system does not say."""
    line = next((line for line in _lines("/proc/self/status") if line.startswith(name + ":")), "")
    return int(line.split()[1]) * 1024 if line else 0


def answer(figures: Mapping[str, Any]) -> None:
    """In a contender's process: hands figures to the process that asked."""
    print(RESULT + json.dumps(figures), flush=True)


def ask(script: str, words: Sequence[str], python: str = sys.executable, limit: float | None = None) -> dict[str, Any]:
    """Runs `script` in a process of its own and returns what it answers. Raises RuntimeError where it fails, or takes
    more than `limit` seconds."""
    try:
        done = subprocess.run([python, script, *words], capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as error:
        said = error.stderr.decode() if isinstance(error.stderr, bytes) else error.stderr or ""
        print(said[-3000:], file=sys.stderr)
        raise RuntimeError(f"it took more than {limit:.0f} s") from None
    found = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
    if done.returncode or not found:
        said = (done.stderr.strip() or done.stdout.strip() or f"it ended with {done.returncode}").splitlines()
        print("\n".join(done.stderr.splitlines()[-30:]), file=sys.stderr, flush=True)
        raise RuntimeError(said[-1])
    return json.loads(found[-1].removeprefix(RESULT))


class Deadline:
    """So many seconds from now on, or no end where they are None."""

    def __init__(self, seconds: float | None):
        self.end = None if seconds is None else time.monotonic() + seconds

    @property
    def left(self) -> float | None:
        return None if self.end is None else max(1.0, self.end - time.monotonic())


def trained(recipe: Any, work: Path, name: str) -> Path:
    """The folder of a recipe's run, which is trained, or goes on where it was stopped, unless it has ended."""
    file, out, ended = (work / f"{name}{end}" for end in (".yaml", "", ".ended"))
    if ended.is_file() and file.read_text() != recipe.dump():
        sys.exit(f"{out} was trained by another recipe; name another folder for --work.")
    file.write_text(recipe.dump())
    if not ended.is_file():
        command = [sys.executable, "-m", "polytask.cli.main", "train", str(file), "--out", str(out)]
        subprocess.run([*command, *(["--resume"] if out.exists() else [])], check=True)
        ended.touch()
    return out


def median(runs: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.median(run[name] for run in runs)


def spread(runs: Sequence[Mapping[str, Any]], name: str) -> str:
    """The lowest and the highest value, which show how quiet the machine was."""
    values = [run[name] for run in runs]
    return f"{min(values):,.0f}..{max(values):,.0f}"
