"""A run as its user sees it: a live line on a terminal, plain lines elsewhere."""

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from polytask.training.callbacks import Callback, Record, Result


def short(number: float) -> str:
    """1234567 -> 1.23M"""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """3725 -> 1:02:05"""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def line_of(record: Record, unit: str = "tokens") -> str:
    parts = [f"loss {record.losses.get('loss', 0.0):.4f}", f"{short(record.tokens_per_second)} {unit}/s"]
    if record.mfu is not None:
        parts.append(f"MFU {record.mfu:.0%}")
    sources = {name[5:]: value for name, value in record.losses.items() if name.startswith("loss/")}
    if len(sources) > 1:
        parts.append(" ".join(f"{name} {value:.3f}" for name, value in sources.items()))
    parts += [f"{name} {value:.3f}" for name, value in record.losses.items() if not name.startswith("loss")]
    return "  ".join([*parts, f"lr {record.lr:.2e}", f"{duration(record.left)} left"])


class LiveView(Callback):
    """Shows loss, losses by source, tokens (or what else a run counts) a second, MFU and the time left."""

    def __init__(self, console: Console | None = None, unit: str = "tokens"):
        self.console, self.unit = console or Console(stderr=True), unit
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._steps = 0

    def on_start(self, step: int, steps: int) -> None:
        self._steps = steps
        if not self.console.is_terminal:
            return
        columns = [TextColumn("step {task.completed}/{task.total}"), BarColumn(20), TextColumn("{task.description}")]
        self._progress = Progress(*columns, TimeElapsedColumn(), console=self.console)
        self._task = self._progress.add_task("", total=steps, completed=step)
        self._progress.start()

    def on_step(self, step: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=step)

    def on_log(self, record: Record) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=line_of(record, self.unit))
        else:
            self._print(f"step {record.step}/{record.steps}  {line_of(record, self.unit)}")

    def on_event(self, step: int, message: str) -> None:
        self._print(f"step {step}: {message}")

    def on_evaluate(self, step: int, metrics: Mapping[str, float]) -> None:
        self._print(f"step {step}: " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))

    def on_samples(self, step: int, samples: list[str]) -> None:
        for sample in samples:
            self._print(sample)

    def on_end(self, result: Result | None) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
