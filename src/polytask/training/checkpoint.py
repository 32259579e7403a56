"""Checkpoints of a run: model folders that anyone can read, with the training state in a folder inside.

    OUT/model/                        the model of the run so far: the newest, or the best where `keep_best` is set
    OUT/checkpoints/step-000500/      a model folder, and in it
        state/weights.safetensors     what is trained, exactly (the model folder may hold a moving average instead)
        state/ema.safetensors         the moving average, where there is one
        state/optimizer.safetensors   the optimizer's tensors by parameter name
        state/run.json                the step, and what decisions to come depend on

No state of random generators is kept: each step seeds them from (seed, step, rank).
"""

import errno
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from polytask.errors import CheckpointError, Notice
from polytask.interop.atomic import atomic_folder, share_files, verify


@dataclass(frozen=True)
class Made:
    """How weights came about: steps, tokens seen, and what the last evaluation of them measured, if any did."""

    steps: int
    tokens: int
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def finite(self) -> dict[str, float]:
        """Figures that JSON can hold."""
        return {name: value for name, value in self.figures.items() if math.isfinite(value)}


# Puts a model's files into an existing folder.
Save = Callable[[Path, Mapping[str, Tensor], Made], None]

GO_ON = "Earlier checkpoints are untouched; free some disk space or choose another --out, then go on with --resume."


@dataclass
class RunState:
    """What the next step depends on beside weights and optimizer."""

    step: int = 0  # steps done
    optimizer: str = ""
    tokens: int = 0
    bad: int = 0  # bad steps in a row
    recent: list[dict[str, list[float]]] = field(default_factory=list)  # losses of the last good steps, by source
    loss: float = math.nan  # of the last good step
    interval: dict[str, list[float]] = field(default_factory=dict)  # sums since the last line of the log
    best: float | None = None
    best_step: int = 0
    waited: int = 0  # evaluations since the best
    metrics: dict[str, float] = field(default_factory=dict)  # of the last evaluation
    measured: int = -1  # the step of it

    def made(self) -> Made:
        """Figures of an earlier step say nothing of these weights."""
        return Made(self.step, self.tokens, self.metrics if self.measured == self.step else {})


@dataclass
class State:
    """A checkpoint's training state in memory."""

    run: RunState
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    ema: dict[str, Tensor]


def save_weights(folder: Path, weights: Mapping[str, Tensor], made: Made) -> None:
    """The plainest `Save`: weights alone."""
    save_file(dict(weights), folder / "model.safetensors", metadata={"format": "pt"})


def write_model_folder(path: Path, save: Save, weights: Mapping[str, Tensor], made: Made) -> None:
    """A model folder at `path`, atomically. Raises CheckpointError where the disk refuses."""
    with atomic_folder(path, advice=GO_ON) as folder:
        _write(lambda: save(folder, weights, made))


def write_checkpoint(out: Path, state: State, save_model: Callable[[Path], None]) -> Path:
    """Writes OUT/checkpoints/step-N atomically; an earlier one is never touched before the new one is whole."""
    path = checkpoints_folder(out) / f"step-{state.run.step:06d}"
    with atomic_folder(path, advice=GO_ON) as folder:
        _write(lambda: save_model(folder))
        inner = folder / "state"
        inner.mkdir()
        for name in ("weights", "optimizer", "ema"):
            if tensors := getattr(state, name):
                _write(lambda name=name, tensors=tensors: save_file(tensors, inner / f"{name}.safetensors"))
        (inner / "run.json").write_text(json.dumps(asdict(state.run)))
    return path


def _write(action: Callable[[], None]) -> None:
    try:
        action()
    except SafetensorError as error:  # its message is all that tells a full disk apart
        code = errno.ENOSPC if "space" in str(error).lower() else errno.EIO
        raise OSError(code, f"{os.strerror(code)} ({error})") from error


def read_state(path: Path) -> State:
    """The training state of a checkpoint, once its checksums agree. Raises CheckpointError naming the file."""
    verify(path)
    inner = path / "state"
    if not (inner / "run.json").is_file():
        raise CheckpointError(f"{path} has no state/run.json: it is a model to start from, not a run to go on with.")
    try:
        run = RunState(**json.loads((inner / "run.json").read_text()))
        tensors = {name: _read(inner / f"{name}.safetensors") for name in ("weights", "optimizer", "ema")}
    except (SafetensorError, ValueError, TypeError) as error:
        raise CheckpointError(f"{inner} cannot be read: {error}. Use an earlier checkpoint.") from None
    return State(run, **tensors)


def _read(file: Path) -> dict[str, Tensor]:
    return load_file(file) if file.is_file() else {}


def checkpoints_folder(out: Path) -> Path:
    return out / "checkpoints"


def checkpoints(out: Path) -> list[Path]:
    """Folders of whole checkpoints, oldest first."""
    found = [path for path in checkpoints_folder(out).glob("step-*") if path.is_dir() and path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def newest_state(out: Path) -> tuple[Path, State] | None:
    """The newest checkpoint that is not damaged, with a warning for every newer one; None where there are none.

    Raises CheckpointError, naming the files, where all of them are damaged.
    """
    faults = []
    for path in reversed(checkpoints(out)):
        try:
            state = read_state(path)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        for message in faults:
            warnings.warn(f"{message} Going on from {path.name}.", Notice, stacklevel=2)
        return path, state
    if faults:
        raise CheckpointError(f"No checkpoint of {out} can be read: " + " ".join(faults))
    return None


def prune(out: Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints."""
    for path in checkpoints(out)[:-keep]:
        shutil.rmtree(_aside(path), ignore_errors=True)


def put_newer_aside(out: Path, step: int) -> None:
    """Takes checkpoints after `step` out of the way of the run that goes on from there, with a warning: they could not
    be read, so that `prune` must not keep them in place of good ones, and those that were never whole could not be
    written over. Another program may still read them, so they stay."""
    for path in checkpoints(out):
        if int(path.name[5:]) > step:
            aside = path.rename(path.with_name(f"unread-{path.name}-{os.getpid()}"))
            warnings.warn(f"{path.name} is kept as {aside}; remove it where nobody wants it.", Notice, stacklevel=2)


def _aside(path: Path) -> Path:
    """Renames a checkpoint to what `sweep` removes, so that a crash leaves none that looks whole."""
    return path.rename(path.with_name(f".{path.name}.new-{os.getpid()}"))


def sweep(out: Path) -> None:
    """Removes what runs that were killed left half-written; other runs of this machine that live are spared.

    A folder that was moved aside for a new one that never came is put back.
    """
    for folder in (out, checkpoints_folder(out)):
        for path in [*folder.glob(".*.old-*"), *folder.glob(".*.new-*")]:
            name, _, owner = path.name.rpartition("-")
            if not owner.isdigit() or (int(owner) != os.getpid() and Path(f"/proc/{owner}").exists()):
                continue
            place = folder / name[1:].rpartition(".")[0]
            if name.endswith(".old") and not place.exists():
                path.rename(place)
            else:
                shutil.rmtree(path, ignore_errors=True)


def publish(checkpoint: Path, out: Path) -> Path:
    """Makes OUT/model the model of a checkpoint, without its training state; files are shared where the disk can."""
    with atomic_folder(out / "model", advice=GO_ON) as folder:
        share_files(checkpoint, folder)
    return out / "model"


def mean_weights(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of what checkpoints trained (Vaswani et al. 2017, section 6.1), in float64 on the way."""
    total: dict[str, Tensor] = {}
    kinds = {}
    for path in paths:
        for name, tensor in _read(path / "state" / "weights.safetensors").items():
            kinds[name] = tensor.dtype
            total[name] = total[name] + tensor.double() if name in total else tensor.double()
    return {name: (tensor / len(paths)).to(kinds[name]) for name, tensor in total.items()}
