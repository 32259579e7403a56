"""What an evaluation found, for people and for files."""

import math
import platform
from dataclasses import dataclass, field
from typing import Any

from polytask import runtime
from polytask.evaluation.intervals import Interval

SHOWN = 60  # characters of a sample's parts in `lines`


@dataclass(frozen=True)
class Sample:
    """One example: what was asked, answered, and is right; the probability of each choice where there were such."""

    prompt: str
    answer: str
    reference: str
    probabilities: dict[str, float] = field(default_factory=dict)


@dataclass
class Report:
    """Metrics with 95% intervals. `signatures` say how a metric was computed, `reproduce` what else decides the
    figures, `notes` what a reader should know. `examples` is how many were asked."""

    task: str
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    examples: int
    samples: list[Sample] = field(default_factory=list)
    signatures: dict[str, str] = field(default_factory=dict)
    reproduce: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; a figure that is not finite is None."""
        return {
            "task": self.task,
            "examples": self.examples,
            "metrics": {name: _plain(value) for name, value in self.metrics.items()},
            "intervals": {name: [_plain(end) for end in ends] for name, ends in self.intervals.items()},
            "signatures": dict(self.signatures),
            "samples": [vars(sample) for sample in self.samples],
            "reproduce": dict(self.reproduce),
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """A small table, the samples and the notes."""
        shots = self.reproduce.get("shots", 0)
        head = f"{self.task}: {_many(self.examples, 'example')}" + (f", {_many(shots, 'shot')}" if shots else "")
        files = self.reproduce.get("files", [])
        head += f" of {', '.join(files[:3])}{', ...' if files[3:] else ''}" if files else ""
        found = [f"{head}, {self.seconds:.1f} seconds"]
        width = max((len(name) for name in self.metrics), default=0)
        for name, value in self.metrics.items():
            ends = self.intervals.get(name)
            interval = f"   95% interval {number(ends[0])} to {number(ends[1])}" if ends else ""
            found.append(f"  {name:<{width}}  {number(value):>8}{interval}")
        for signature in dict.fromkeys(self.signatures.values()):
            named = [name for name, other in self.signatures.items() if other == signature]
            found.append(f"  {named[0]}{', ...' if named[1:] else ''}: {signature}")
        for sample in self.samples:
            asked, answer, gold = (_short(part) for part in (sample.prompt, sample.answer, sample.reference))
            found.append(f"  {asked} → {answer}" + (f"   (right: {gold})" if gold and gold != answer else ""))
        return found + [f"  Note: {note}" for note in self.notes]


def versions() -> dict[str, str]:
    """Of what decides figures: polytask, torch, python."""
    import torch

    own = runtime.version() or "unknown"
    return {"polytask": own, "torch": str(torch.__version__), "python": platform.python_version()}


def number(value: float) -> str:
    """Four significant digits or so: 0.8312, 31.27, 1,204."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
