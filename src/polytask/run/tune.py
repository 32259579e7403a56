"""polytask tune: a trained model goes on with a file of the user's own, whole or by low-rank adapters."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask import runtime
from polytask.errors import ConfigError
from polytask.interop.folder import locate, read_folder
from polytask.recipe import Recipe
from polytask.run.assembly import Assembly, assemble
from polytask.run.source import shared_fields, task_named
from polytask.run.train import Preparing, build_trainer, keep_recipe, saver
from polytask.training import adapters
from polytask.training.callbacks import Callback, Result
from polytask.training.checkpoint import Made
from polytask.training.parallel.data import joined

if TYPE_CHECKING:
    import torch

LENGTH = 512  # tokens of a row, where the model allows as many
ROWS = 16  # rows of a step at most
FEWEST = 4  # rows of a step, where there are as many: gradients of single rows unlearn more than they teach
STEPS_PER_EPOCH = 20  # a small file gets smaller batches, so that it is learnt in steps enough
LR, LORA_LR = 3e-4, 2e-3  # adapters start at zero and stay small; they take and need larger steps
EVALUATIONS = 5  # over the run


@dataclass(frozen=True)
class Tuning:
    """How to tune. `steps` None: as many as `epochs` take. `merge` leaves no adapter files beside the model."""

    lora: bool = False
    rank: int = 16
    merge: bool = False
    steps: int | None = None
    epochs: float = 3.0
    lr: float | None = None

    def __post_init__(self) -> None:
        if self.merge and not self.lora:
            raise ConfigError("--merge adds adapters to the weights, and there are none without --lora.")
        if not 0 < self.epochs < math.inf or (self.steps is not None and self.steps < 1):
            raise ConfigError("--steps must be at least 1 and --epochs above 0.")
        if self.lr is not None and not 0 < self.lr <= 1e3:
            raise ConfigError(f"--lr {self.lr:g} must be above 0, and at most 1,000.")


def tune(
    model: str, task: str, data: str, columns: Mapping[str, str], fields: Mapping[str, str], wish: Tuning, *,
    out: Path | None = None, resume: bool = False, callbacks: Sequence[Callback] | None = None,
) -> Result:  # fmt: skip
    """Tunes into `out` (runs/MODEL-TASK by default), which then holds a whole model, adapters merged in.

    With adapters and without `merge` they also lie in OUT/model/adapter, as peft reads them. Raises an Error that says
    what is wrong with the model, the file or the folder.
    """
    runtime.prepare()
    base = locate(model)
    found, named = task_named(model, task)
    out = out or Path("runs") / f"{Path(model).resolve().name}-{found.name}"
    source = {"task": named, "from": data, "columns": dict(columns), "fields": shared_fields(found, columns, fields)}
    device = runtime.pick_device()
    with joined(str(device)) as world, Preparing(world.first) as progress:
        assembly = _sized(assemble(_recipe(base, source, wish), progress=progress), wish)
        if world.first:
            keep_recipe(assembly, out, resume)
        network = assembly.network(device)
        save = saver(assembly, network)
        if wish.lora:
            adapters.apply(network, adapters.LoRA(rank=wish.rank, alpha=2.0 * wish.rank), seed=assembly.recipe.seed)
            save = _merging(save, network, "" if wish.merge else str(base))
        trainer = build_trainer(assembly, out, device, world, callbacks, network=network, save=save)
        return trainer.run(resume=resume)


def _recipe(base: Path, source: dict[str, Any], wish: Tuning) -> Recipe:
    config = read_folder(base).config
    lr = wish.lr or (LORA_LR if wish.lora else LR)
    training = {
        "steps": wish.steps or 1,
        "batch_rows": ROWS,
        "context_length": min(LENGTH, config.decoder.context_length),
    }
    training |= {"lr": lr, "warmup": 0.1, "save_every": 200, "log_every": 5}
    plain = {
        "name": f"{base.parent.name if base.name == 'model' else base.name}, tuned",
        "model": {"from": str(base.resolve())},
        "data": {"sources": [source], "held_out": 0.05, "folder": str(Path.cwd())},
        "training": training,
    }
    return Recipe.model_validate(plain)


def _sized(assembly: Assembly, wish: Tuning) -> Assembly:
    """Batch, steps and evaluations that fit the file, now that its size is known."""
    recipe = assembly.recipe
    rows = sum(assembly.loader().rows)
    batch = min(rows, max(FEWEST, min(ROWS, rows // STEPS_PER_EPOCH)))
    steps = wish.steps or math.ceil(wish.epochs * rows / batch)
    training = recipe.training.model_copy(update={"batch_rows": batch, "steps": steps})
    evaluation = recipe.evaluation.model_dump() | {"every": max(1, steps // EVALUATIONS)}
    if any(len(source.validation) for source in assembly.prepared.sources):
        evaluation["keep_best"] = {"metric": "validation_loss", "mode": "lowest"}
    made = type(recipe.evaluation).model_validate(evaluation)
    return replace(assembly, recipe=recipe.model_copy(update={"training": training, "evaluation": made}))


def _merging(save: Any, network: Any, base: str) -> Any:
    """Saves whole models while adapters train, so that anyone can ask them; for a `base` the adapters beside."""

    def merging(folder: Path, weights: Mapping[str, "torch.Tensor"], made: Made) -> None:
        save(folder, adapters.merged_weights(network, weights), made)
        if base:
            adapters.save(folder / "adapter", network, weights, base)

    return merging
