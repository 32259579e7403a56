"""What a run leaves to read: log.jsonl, TensorBoard's files where wished, and the loss curve as a picture."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polytask.errors import MissingExtra
from polytask.training.callbacks import Callback, Record, Result


class JsonLog(Callback):
    """One JSON object a line in OUT/log.jsonl; a run that resumes drops the lines of steps that it will do again."""

    def __init__(self, out: Path):
        self.path = out / "log.jsonl"

    def on_start(self, step: int, steps: int) -> None:
        lines = [json.dumps(line) for line in read_log(self.path) if line.get("step", 0) <= step] if step else []
        fresh = self.path.with_suffix(".new")
        fresh.write_text("".join(line + "\n" for line in lines))
        os.replace(fresh, self.path)

    def _append(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def on_log(self, record: Record) -> None:
        self._append(record.plain())

    def on_event(self, step: int, message: str) -> None:
        self._append({"step": step, "event": message})

    def on_evaluate(self, step: int, metrics: Mapping[str, float]) -> None:
        self._append({"step": step, "evaluation": dict(metrics)})

    def on_samples(self, step: int, samples: list[str]) -> None:
        self._append({"step": step, "samples": samples})

    def on_end(self, result: Result | None) -> None:
        if result is not None:
            plot_loss(self.path, result.out / "loss.png")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line cut short by a crash is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


class TensorBoard(Callback):
    """Scalars for `tensorboard --logdir OUT/tensorboard`. Raises MissingExtra where tensorboard is not installed."""

    def __init__(self, out: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtra("tensorboard", "tensorboard") from None
        self._folder, self._kind = out / "tensorboard", SummaryWriter
        self._writer: Any = None

    def on_start(self, step: int, steps: int) -> None:
        self._writer = self._kind(str(self._folder), purge_step=step or None)

    def on_log(self, record: Record) -> None:
        for name, value in record.plain().items():
            if name != "step":
                self._writer.add_scalar(f"train/{name}", value, record.step)

    def on_evaluate(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(f"evaluation/{name}", value, step)

    def on_samples(self, step: int, samples: list[str]) -> None:
        self._writer.add_text("samples", "\n\n".join(samples), step)

    def on_end(self, result: Result | None) -> None:
        if self._writer is not None:
            self._writer.close()


def plot_loss(log: Path, picture: Path) -> bool:
    """Draws the losses of a log by step, those by source thinner and validation dashed; False where there are none."""
    from matplotlib.figure import Figure

    curves: dict[str, list[tuple[int, float]]] = {}
    for line in read_log(log):
        values = line.get("evaluation", line)
        for name, value in values.items():
            if "loss" in name and isinstance(value, int | float):
                curves.setdefault(name, []).append((line["step"], value))
    if not curves:
        return False
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss (nats a token)")
    for name, points in sorted(curves.items()):
        style = "--" if name.startswith("validation") else "-"
        axes.plot(*zip(*points), style, label=name, linewidth=2 if name in ("loss", "validation_loss") else 0.8)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=120)
    return True
