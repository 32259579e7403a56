"""What a user decides about training, as one frozen value."""

from dataclasses import dataclass, fields
from typing import Literal

from polytask.errors import ConfigError
from polytask.training.optimizers import OPTIMIZERS
from polytask.training.schedules import SCHEDULES


@dataclass(frozen=True)
class TrainingConfig:
    """Every field but `steps` has a default that suits a small model.

    steps              optimizer steps of the whole run
    lr, min_lr         learning rate at its peak and at its end (`inverse_sqrt` and `constant` do not use min_lr)
    schedule           cosine, inverse_sqrt, wsd or constant
    warmup             steps of linear rise
    decay              steps of the last part of wsd; 0 means a fifth of the run
    optimizer          adamw, muon or adafactor
    betas, eps         of AdamW, also for what Muon leaves to it
    momentum           of Muon
    weight_decay       of matrices; vectors (norms, biases) have none
    clip               largest norm of the whole gradient; 0 leaves it as it is
    accumulate         batches a step, of which only one is in memory at a time
    precision          float32, or bfloat16 for matrix products with float32 weights
    compile            compile each block (pays off on a GPU)
    checkpointing      keep only each block's input for the backward pass, and compute the rest again
    label_smoothing, z_loss    as `models.heads.cross_entropy` has them
    ema                decay of the moving average of weights that checkpoints hold, such as 0.999; 0 keeps none
    spike              deviations above the moving median of losses from which on a step is skipped; 0 is never
    skips              bad steps in a row that end the run where their losses are no numbers, and else are the new level
    log_every, save_every, evaluate_every    in steps; 0 saves at the end alone, and never evaluates
    keep               checkpoints on disk
    average_last       checkpoints whose mean is the final model; 0 and 1 take the last as it is
    keep_best          metric whose best checkpoint is the final model, such as "validation_loss"
    best               whether the "lowest" or the "highest" value of that metric is best
    patience           evaluations without a better value that end the run; 0 never does
    """

    steps: int
    lr: float = 1e-3
    min_lr: float = 0.0
    schedule: str = "cosine"
    warmup: int = 0
    decay: int = 0
    optimizer: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    momentum: float = 0.95
    weight_decay: float = 0.1
    clip: float = 1.0
    accumulate: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    checkpointing: bool = False
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    ema: float = 0.0
    spike: float = 10.0
    skips: int = 5
    seed: int = 0
    log_every: int = 10
    save_every: int = 500
    evaluate_every: int = 500
    keep: int = 2
    average_last: int = 0
    keep_best: str | None = None
    best: Literal["lowest", "highest"] = "lowest"
    patience: int = 0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        OPTIMIZERS.get(self.optimizer)
        SCHEDULES.get(self.schedule)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"training: {name}={value!r} must be a whole number of at least {least}")
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or not least <= value <= most:
                raise ConfigError(f"training: {name}={value!r} must be a number from {least:g} to {most:g}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"training: betas={list(self.betas)} must be two numbers of at least 0 and below 1")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"training: {name}={getattr(self, name)!r} must be one of: {', '.join(choices)}")
        if self.warmup > self.steps:
            raise ConfigError(f"training: warmup={self.warmup} is longer than the run of {self.steps} steps; lower it.")
        if self.patience and not self.keep_best:
            raise ConfigError("training: patience needs keep_best, the metric that must get better")
        if self.keep_best and not self.evaluate_every:
            raise ConfigError("training: keep_best needs evaluate_every, how often to measure it")
        if self.keep_best and self.average_last > 1:
            raise ConfigError("training: keep_best and average_last both choose the final model; set one of them")


_LEAST = {
    "steps": 1, "warmup": 0, "decay": 0, "accumulate": 1, "skips": 1, "seed": 0, "log_every": 1, "save_every": 0,
    "evaluate_every": 0, "keep": 1, "average_last": 0, "patience": 0,
}  # fmt: skip
_RANGES = {
    "lr": (0.0, 1e3), "min_lr": (0.0, 1e3), "eps": (0.0, 1.0), "momentum": (0.0, 1.0), "weight_decay": (0.0, 1e3),
    "clip": (0.0, 1e9), "label_smoothing": (0.0, 0.99), "z_loss": (0.0, 1.0), "ema": (0.0, 0.9999999), 
    "spike": (0.0, 1e9),
}  # fmt: skip
_CHOICES = {"precision": ("float32", "bfloat16"), "best": ("lowest", "highest")}
FIELDS = tuple(field.name for field in fields(TrainingConfig))
