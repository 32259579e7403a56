"""polytask plan: what the run of a recipe will cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask import runtime
from polytask.errors import DataError
from polytask.interop import networks
from polytask.models.config import TransformerConfig
from polytask.plan import Derived, Plan, measured_rate, plan
from polytask.recipe import Recipe
from polytask.run.assembly import config_of, read_recipe, tokenizer_of
from polytask.tokenizers.image import ImageTokenizer
from polytask.tokenizers.text import SPECIAL

if TYPE_CHECKING:
    import torch


def plan_recipe(
    recipe: str, changes: Sequence[str] = (), *, data_dir: Path | None = None, measure: bool = True
) -> Plan:
    """The plan of a recipe on this machine; `measure` times a few training steps."""
    runtime.prepare()
    loaded = read_recipe(recipe, changes, data_dir)
    training, device = loaded.training, runtime.pick_device()
    precision = runtime.pick_products(training.precision, device)
    config, vocabulary = _config(loaded)
    rows = max(1, loaded.batch_rows // training.accumulate)
    rate = measured_rate(config, rows, training.context_length, precision, device) if measure else (0.0, "")
    derived = (*_derived(loaded, config, precision, str(device)), *vocabulary, *_sizes(loaded, config))
    return planned(loaded, config, device, rate=rate, derived=derived)


def planned(recipe: Recipe, config: TransformerConfig, device: "torch.device", **words: Any) -> Plan:
    """The plan of a recipe whose network is known; `words` are more of `plan`."""
    training, length = recipe.training, recipe.training.context_length
    return plan(
        config,
        tokens=recipe.steps * recipe.batch_rows * length * (2 if config.encoder_layers else 1),
        rows=max(1, recipe.batch_rows // training.accumulate),
        length=length,
        precision=runtime.pick_products(training.precision, device),
        optimizer=training.optimizer,
        checkpointing=training.checkpointing,
        average=training.ema > 0,
        available=runtime.memory_bytes(device),
        **words,
    )


def _config(recipe: Recipe) -> tuple[TransformerConfig, tuple[Derived, ...]]:
    """The network; where its data is not there yet, the vocabulary is taken to be as large as the recipe allows."""
    wish = recipe.tokenizer
    if recipe.model.from_ is None and wish.file is None and wish.kind == "bpe":
        return _largest(recipe, wish.size, "tokenizer.size, at the most")
    try:
        tokenizer = tokenizer_of(recipe)
    except DataError:
        return _largest(recipe, len(SPECIAL) + 256 + 100, "a guess: the data is not there yet")
    return config_of(recipe, tokenizer), (Derived("vocabulary", f"{tokenizer.size:,}", "the tokenizer's"),)


def _largest(recipe: Recipe, texts: int, source: str) -> tuple[TransformerConfig, tuple[Derived, ...]]:
    """The network for so many ids of texts and, where there are pictures, those of their codes."""
    if (wish := recipe.tokenizer.pictures) is None:
        return recipe.network(texts), (Derived("vocabulary", f"{texts:,}", source),)
    beside = ImageTokenizer.beside(networks.load(wish.from_), texts, wish.text_length).vocabulary
    why = f"{source}, and {beside.size - texts:,} of pictures"
    return recipe.network(beside.size, beside), (Derived("vocabulary", f"{beside.size:,}", why),)


def _derived(recipe: Recipe, config: TransformerConfig, precision: str, device: str) -> list[Derived]:
    training, made = recipe.training, recipe.training_config(precision)
    found = [Derived("device", device, "the first GPU where there is one, else the CPU")]
    if training.precision == "auto":
        found.append(Derived("precision", precision, "bfloat16 where products in it are faster, else float32"))
    if training.steps is None:
        found.append(Derived("steps", f"{recipe.steps:,}", "tokens / (rows x context_length)"))
    if training.batch_rows is None:
        found.append(Derived("batch_rows", f"{recipe.batch_rows:,}", "batch_tokens / context_length"))
    if training.objective is None:
        found.append(Derived("objective", recipe.objective_of(config), "what the network is made for"))
    if training.warmup < 1:
        found.append(Derived("warmup", f"{made.warmup:,} steps", f"{training.warmup:.0%} of the run"))
    if training.schedule == "wsd" and training.decay < 1:
        found.append(Derived("decay", f"{made.decay:,} steps", f"{training.decay:.0%} of the run"))
    return found


def _sizes(recipe: Recipe, config: TransformerConfig) -> list[Derived]:
    """Sizes that follow from the system's dial, with the source that the system states for each."""
    from importlib import import_module

    if recipe.model.system is None or recipe.model.size is not None:
        return []
    try:
        sources = import_module(f"polytask.systems.{recipe.model.system}").SOURCES
    except (ImportError, AttributeError):
        return []
    heads, kv_heads, _ = config.attention_of(0).sizes(config.dim)
    values = {"dim": config.dim, "heads": heads, "kv_heads": kv_heads, "width": getattr(config.feedforward, "width", 0)}
    given = recipe.model.changes
    return [Derived(n, f"{values[n]:,}", why) for n, why in sources.items() if n in values and n not in given]
