"""A training run worth watching: the loss as a line, the speed, and a sample of every task answered now and then."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from polytask.training.callbacks import Callback, Record, Result
from polytask.training.progress import duration, line_of, short

BLOCKS = " ▁▂▃▄▅▆▇█"
RIGHT, WRONG = "✓", "✗"


def sparkline(values: Sequence[float], width: int, rows: int = 1) -> list[str]:
    """`values` as `rows` lines of `width` blocks, the lowest at the bottom; neighbours are averaged where too many."""
    if not values:
        return [""] * rows
    if len(values) > width:
        edges = [round(i * len(values) / width) for i in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(values), max(values)
    heights = [1 + round((value - low) / ((high - low) or 1.0) * (8 * rows - 1)) for value in values]
    return ["".join(BLOCKS[min(8, max(0, h - 8 * row))] for h in heights) for row in reversed(range(rows))]


class Spectacle(Callback):
    """Redraws one panel on a terminal; elsewhere prints a line now and then.

    Samples are "TASK<tab>MARK<tab>QUESTION<tab>ANSWER", as `sample_line` writes them.
    """

    def __init__(self, title: str, console: Console | None = None):
        self.title, self.console = title, console or Console(highlight=False)
        self.losses: list[float] = []
        self.record: Record | None = None
        self.samples: list[str] = []
        self.validation: float | None = None
        self._live: Live | None = None
        self._bar = Progress(BarColumn(bar_width=None), TaskProgressColumn(), TextColumn("{task.description}"))
        self._printed = 0.0

    def on_start(self, step: int, steps: int) -> None:
        self._task = self._bar.add_task("", total=steps, completed=step)
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._panel, console=self.console, refresh_per_second=4)
            self._live.start()

    def on_step(self, step: int) -> None:
        self._bar.update(self._task, completed=step)

    def on_log(self, record: Record) -> None:
        self.record = record
        self.losses.append(record.losses["loss"])
        self._bar.update(self._task, description=f"{duration(record.left)} left")
        if self._live is None and (record.step / record.steps >= self._printed or record.step == record.steps):
            self._printed += 0.05
            self.console.print(f"step {record.step}/{record.steps}  {line_of(record)}", markup=False, soft_wrap=True)

    def on_event(self, step: int, message: str) -> None:
        self.console.print(f"step {step}: {message}", markup=False)

    def on_evaluate(self, step: int, metrics: Mapping[str, float]) -> None:
        self.validation = metrics.get("validation_loss")
        if self._live is None and self.validation is not None:
            self.console.print(f"step {step}: validation loss {self.validation:.3f}", markup=False)

    def on_samples(self, step: int, samples: list[str]) -> None:
        self.samples = samples
        if self._live is None:
            right = sum(sample.split("\t")[1] == RIGHT for sample in samples)
            self.console.print(f"step {step}: {right} of {len(samples)} samples answered right", markup=False)

    def on_end(self, result: Result | None) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _panel(self) -> Panel:
        width = max(20, min(self.console.width, 110) - 6)
        parts: list[Any] = []
        if self.record is not None:
            head = Text()
            head.append(f"loss {self.record.losses['loss']:.3f}", style="bold cyan")
            if self.validation is not None:
                head.append(f"   validation {self.validation:.3f}")
            head.append(f"   {short(self.record.tokens_per_second)} tokens/s   {short(self.record.tokens)} tokens seen")
            if self.record.mfu is not None:
                head.append(f"   MFU {self.record.mfu:.0%}")
            parts += [head, *(Text(line, style="cyan") for line in sparkline(self.losses, width, 4))]
        parts.append(self._bar)
        if self.samples:
            parts.append(self._table(width))
        return Panel(Group(*parts), title=self.title, border_style="cyan", padding=(0, 1), width=width + 6)

    def _table(self, width: int) -> Table:
        table = Table(box=None, show_header=False, width=width, padding=(0, 1, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(width=1)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis", style="dim")
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for sample in self.samples:
            task, mark, question, answer = sample.split("\t")
            style = "green" if mark == RIGHT else "red"
            table.add_row(task, Text(mark, style=style), Text(question), Text(answer, style=style))
        return table


def sample_line(task: str, right: bool, question: str, answer: str) -> str:
    """One sample as `Spectacle` reads it; the end of a long question says more than its beginning."""
    question, answer = (" ".join(text.split()) for text in (question, answer))
    shown = question if len(question) <= 60 else "…" + question[-59:]
    return "\t".join([task, RIGHT if right else WRONG, shown, answer])
