"""What can watch a run. Callbacks are called in the first process alone and never change what is learned."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """A line of the log: means since the line before it. losses: loss, loss/SOURCE and what else an objective logs.

    step is the number of steps done; mfu is the model FLOPs utilisation, None where the rate of the machine is unknown;
    left is in seconds.
    """

    step: int
    steps: int
    losses: Mapping[str, float]
    lr: float
    norm: float
    tokens: int
    tokens_per_second: float
    mfu: float | None
    left: float

    def plain(self) -> dict[str, float]:
        """For files: losses, lr, norm, tokens, tokens_per_second, mfu."""
        values = {
            "step": self.step, **self.losses, "lr": self.lr, "norm": self.norm, "tokens": self.tokens,
            "tokens_per_second": round(self.tokens_per_second, 1),
        }  # fmt: skip
        return values if self.mfu is None else values | {"mfu": round(self.mfu, 4)}


@dataclass(frozen=True)
class Result:
    """How a run ended: `model` is the folder to ask, `message` a sentence for the user."""

    out: Path
    model: Path
    step: int
    loss: float
    message: str
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the last evaluation


@dataclass(frozen=True)
class Stopped(Result):
    """The user stopped the run, which can go on with resume."""


class Callback:
    """Override what is of interest."""

    def on_start(self, step: int, steps: int) -> None: ...

    def on_step(self, step: int) -> None:
        """After every step."""

    def on_log(self, record: Record) -> None:
        """Every `log_every` steps."""

    def on_event(self, step: int, message: str) -> None:
        """Something out of the ordinary: a step was skipped."""

    def on_evaluate(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def on_samples(self, step: int, samples: list[str]) -> None: ...

    def on_save(self, step: int, path: Path) -> None: ...

    def on_end(self, result: Result | None) -> None:
        """At the end of every run; None where it ended with an error."""
