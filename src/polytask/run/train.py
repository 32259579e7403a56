"""polytask train: a recipe becomes a model."""

import difflib
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask import runtime
from polytask.data.loader import Loader
from polytask.errors import ConfigError, Notice, TrainingError
from polytask.interop.folder import read_folder, write_model
from polytask.models import cost
from polytask.recipe import Recipe
from polytask.run.assembly import Assembly, assemble_any, read_recipe
from polytask.run.card import card
from polytask.run.pictures import PictureAssembly
from polytask.run.plan import planned, planned_pictures
from polytask.tasks import get_task
from polytask.tokenizers.text import TextTokenizer
from polytask.training.callbacks import Callback, Result
from polytask.training.checkpoint import Made
from polytask.training.parallel.data import World, joined
from polytask.training.progress import LiveView
from polytask.training.trainer import Trainer

if TYPE_CHECKING:
    import torch


OURS = "# The recipe of this run, with everything resolved, as polytask wrote it."  # tells it from a user's own


def train(
    recipe: str, changes: Sequence[str] = (), *, out: Path | None = None, resume: bool = False,
    data_dir: Path | None = None,
) -> Result:  # fmt: skip
    """Trains as the recipe says, into `out` (runs/NAME by default); under torchrun on all processes.

    Raises an Error that says what is wrong with the recipe, the data, the folder or the machine.
    """
    loaded = read_recipe(recipe, changes, data_dir)
    return train_recipe(loaded, out or Path("runs") / loaded.name, resume=resume)


def train_recipe(
    recipe: Recipe, out: Path, *, resume: bool = False, callbacks: Sequence[Callback] | None = None,
    samples: Any = None, device_name: str = "auto",
) -> Result:  # fmt: skip
    """The same for a recipe that has been read. `samples`: (assembly, network) -> the trainer's function of a step."""
    runtime.prepare()
    with joined(str(runtime.pick_device(device_name))) as world:
        device = _own_device(device_name, world)
        # A model that goes on from a checkpoint has its tokenizer there, with what makes codes of pictures.
        tokenizer = _kept_tokenizer(out) if resume and recipe.model.from_ is None else None
        with Preparing(world.first) as progress:
            assembly = assemble_any(recipe, tokenizer=tokenizer, progress=progress)
        if world.size == 1:
            _expect_memory(assembly, device)
        if world.first:
            keep_recipe(assembly, out, resume)
        trainer = build_trainer(assembly, out, device, world, callbacks, samples)
        return trainer.run(resume=resume)


def _expect_memory(assembly: Assembly | PictureAssembly, device: "torch.device") -> None:
    """Raises TrainingError where a run cannot fit: on a CPU the system would end this process, or others, halfway."""
    if isinstance(assembly, PictureAssembly):
        made = planned_pictures(assembly.recipe, assembly.config, assembly.frozen, device)
    else:
        made = planned(assembly.recipe, assembly.config, device)
    for note in made.notes:
        raise TrainingError(note)


def build_trainer(
    assembly: Assembly | PictureAssembly, out: Path, device: "torch.device", world: World,
    callbacks: Sequence[Callback] | None = None, samples: Any = None, network: Any = None, save: Any = None,
) -> Trainer:  # fmt: skip
    """The trainer of an assembled recipe; `network` and `save` stand in for those of the recipe."""
    recipe = assembly.recipe
    loader: Any = assembly.loader(world)
    if world.first and isinstance(loader, Loader):
        _tell_of_cuts(loader)
    network = assembly.network(device) if network is None else network
    precision = world.share(runtime.pick_products(recipe.training.precision, device))  # measured, so one decides
    training = recipe.training_config(precision)
    if training.compile and device.type == "cpu" and not runtime.compiler():
        raise ConfigError(
            "training.compile needs a C++ compiler on a CPU (g++, or what CXX names), and there is none: install one, "
            "or set training.compile to false."
        )
    accumulate = training.accumulate
    evaluate, shown = (None, None) if isinstance(assembly, PictureAssembly) else _watching(assembly, network, samples)
    return Trainer(
        network,
        assembly.objective(device),
        lambda step, micro: loader.batch(step * accumulate + micro),
        training,
        out,
        save=save or saver(assembly, network),
        callbacks=[LiveView(unit=assembly.unit)] if callbacks is None else callbacks,
        validation=assembly.validation(loader),
        evaluate=evaluate,
        samples=shown,
        sources=assembly.prepared.names,
        flops_per_token=assembly.flops(loader),
        peak_flops=runtime.matmul_rate(device, precision),
        world=world,
    )


def _watching(assembly: Assembly, network: Any, samples: Any) -> tuple[Any, Any]:
    """The trainer's functions of a step: what the recipe's tasks score, and what the network writes."""
    from polytask.run.evaluate import scoring
    from polytask.run.samples import speaker

    recipe, tokenizer = assembly.recipe, assembly.tokenizer
    shown = samples(assembly, network) if samples else speaker(recipe, network, tokenizer)
    return scoring(recipe, network, tokenizer), shown


def _tell_of_cuts(loader: Loader) -> None:
    for name, found in loader.report().items():
        if found.cut:
            warnings.warn(
                f"{found.cut:,} of the {found.documents:,} examples of '{name}' are longer than a row and are cut, by "
                f"{found.tokens_lost:,} tokens in all. A larger training.context_length keeps them.",
                Notice,
                stacklevel=2,
            )


def saver(assembly: Assembly | PictureAssembly, network: Any) -> Any:
    """The trainer's `save`: a whole model folder, with its card and the user's own tasks."""
    if isinstance(assembly, PictureAssembly):
        return assembly.saver(network)
    recipe = assembly.recipe
    about = about_model(assembly)
    tasks = {}
    if recipe.model.from_ is not None:
        tasks = {file.stem: file.read_text(encoding="utf-8") for file in read_folder(recipe.model.from_).task_files}
    for source in recipe.sources():
        if isinstance(source.task, str) and source.task.endswith((".yaml", ".yml")):
            task = get_task(source.task)
            tasks[task.name] = Path(source.task).read_text(encoding="utf-8")

    def save(folder: Path, weights: Mapping[str, "torch.Tensor"], made: Made) -> None:
        said = about | {"steps": made.steps, "tokens_seen": made.tokens, "figures": made.finite}
        write_model(folder, network, assembly.tokenizer, card=card(said), about=said, tasks=tasks, weights=weights)

    return save


def about_model(assembly: Assembly) -> dict[str, Any]:
    """What a checkpoint says of its making: the recipe, the data with licences and counts."""
    data = []
    for spec, source in zip(assembly.recipe.sources(), assembly.prepared.sources):
        counts = source.train.counts
        task = spec.task if isinstance(spec.task, str) else spec.task.name
        said = {"name": source.name, "task": get_task(task).name, "from": spec.from_, "licence": spec.licence}
        said |= {
            "attribution": spec.attribution,
            "examples": counts.documents // assembly.prepared.segmentations,
            "tokens": counts.tokens,
        }
        data.append({key: value for key, value in said.items() if value not in ("", None)})
    return {
        "name": assembly.recipe.name,
        "date": date.today().isoformat(),
        "parameters": cost.parameters(assembly.config),
        "tasks": sorted({item["task"] for item in data}),
        "data": data,
        "from": assembly.recipe.model.from_,
        "recipe": assembly.recipe.dump(),
    }


def keep_recipe(assembly: Assembly | PictureAssembly, out: Path, resume: bool) -> None:
    """Puts recipe and tokenizer into the run's folder; a run that goes on must have the recipe that it began with.

    Raises ConfigError naming the keys that differ, or a file of the user's that would be written over.
    """
    file, text = out / "recipe.yaml", f"{OURS}\n{assembly.recipe.dump()}"
    if resume and file.is_file():
        before, now = file.read_text().splitlines(), text.splitlines()
        for kind, i, j, k, m in difflib.SequenceMatcher(None, before, now, autojunk=False).get_opcodes():
            if kind != "equal":
                was, found = (" / ".join(map(str.strip, lines)) or "nothing" for lines in (before[i:j], now[k:m]))
                raise ConfigError(
                    f"{out} began with another recipe: it said '{was}', and now it says '{found}'. "
                    f"Go on with {file}, or choose another --out."
                )
        return
    if (out / "checkpoints").is_dir() and any((out / "checkpoints").iterdir()):
        return  # the trainer refuses, and nothing of the run that is there may change
    if not is_run(out):
        for name in ("recipe.yaml", "tokenizer.json", "log.jsonl"):
            if (out / name).exists():
                raise ConfigError(f"{out / name} is not of a run and would be written over; choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    if assembly.tokenizer is not None:
        assembly.tokenizer.save(out)


def is_run(out: Path) -> bool:
    """Whether polytask made this folder for a run, so that what a run writes may be written over."""
    file = out / "recipe.yaml"
    return file.is_file() and file.read_bytes().startswith(OURS.encode())


def _kept_tokenizer(out: Path) -> TextTokenizer | None:
    return TextTokenizer.load(out) if (out / "tokenizer.json").is_file() else None


def _own_device(name: str, world: World) -> "torch.device":
    import os

    device = runtime.pick_device(name)
    if world.size > 1 and device.type == "cuda":
        return runtime.pick_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    return device


class Preparing:
    """Shows how far the tokenization of sources is, on a terminal's last line or as one line a source."""

    def __init__(self, shown: bool = True):
        self.shown = shown
        self._at: dict[str, tuple[int, int]] = {}
        self._last = 0.0

    def __enter__(self) -> "Preparing":
        return self

    def __call__(self, source: str, rows: int, tokens: int) -> None:
        self._at[source] = (rows, tokens)
        now = time.monotonic()
        if self.shown and sys.stderr.isatty() and now - self._last > 0.2:
            self._last = now
            print(f"\r\x1b[2Kpreparing {source}: {rows:,} rows, {tokens:,} tokens", end="", file=sys.stderr)

    def __exit__(self, *_: object) -> None:
        if not self.shown:
            return
        if self._at and sys.stderr.isatty():
            print("\r\x1b[2K", end="", file=sys.stderr)
        for source, (rows, tokens) in self._at.items():
            print(f"prepared {source}: {rows:,} rows" + (f", {tokens:,} tokens" if tokens else ""), file=sys.stderr)
