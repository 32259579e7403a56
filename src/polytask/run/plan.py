"""polytask plan: what the run of a recipe will cost."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask import runtime
from polytask.errors import DataError
from polytask.interop import networks
from polytask.models import built, cost
from polytask.models.config import TransformerConfig
from polytask.models.networks import Language, Picturing, side_of
from polytask.models.vision_language import VisionLanguageConfig
from polytask.plan import Derived, Plan, beyond, measured_rate, plan, state_bytes
from polytask.recipe import Recipe
from polytask.run.assembly import config_of, read_recipe, tokenizer_of
from polytask.run.costs import flops_of, measured, memory_of
from polytask.run.pictures import Frozen, checked_dials, picture_config, reads_captions
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
    if loaded.draws:
        return _plan_pictures(loaded, device, measure)
    precision = runtime.pick_products(training.precision, device)
    config, vocabulary = network_of(loaded)
    rows = max(1, loaded.batch_rows // training.accumulate)
    rate = measured_rate(config.decoder, rows, training.context_length, precision, device) if measure else (0.0, "")
    derived = (*_derived(loaded, config, precision, str(device)), *vocabulary, *_sizes(loaded, config.decoder))
    return planned(loaded, config, device, rate=rate, derived=derived)


def planned(recipe: Recipe, config: Language, device: "torch.device", **words: Any) -> Plan:
    """The plan of a recipe whose network is known; `words` are more of `plan`."""
    training, length = recipe.training, recipe.training.context_length
    rows = max(1, recipe.batch_rows // training.accumulate)
    made = plan(
        config.decoder,
        tokens=tokens_of(recipe, config.decoder),
        rows=rows,
        length=length,
        precision=runtime.pick_products(training.precision, device),
        optimizer=training.optimizer,
        checkpointing=training.checkpointing,
        average=training.ema > 0,
        **words,
    )
    if isinstance(config, VisionLanguageConfig):
        made = _with_sight(made, recipe, config, rows * length // config.states)
    return beyond(made, runtime.memory_bytes(device))


def _with_sight(made: Plan, recipe: Recipe, config: VisionLanguageConfig, most: int) -> Plan:
    """The same with what looking at pictures costs, of which a batch holds `most` where it is full of them."""
    parts = cost.parameters_by_part(config)
    count = cost.parameters(config) - cost.parameters(config.decoder)
    tower, average = cost.tower(config.vision), recipe.training.ema > 0
    seen = cost.activation_bytes(tower, most, tower.context_length, checkpointing=recipe.training.checkpointing)
    own = {
        "weights": 4 * count,
        "gradients": 4 * count,
        "optimizer": int(state_bytes(recipe.training.optimizer) * count),
    }
    own |= {"activations": seen} | ({"average": 4 * count} if average else {})
    return replace(
        made,
        parameters={**made.parameters, **{name: parts[name] for name in ("vision", "projector")}},
        flops_per_token=made.flops_per_token + cost.flops_per_picture(config) / config.states,
        memory={name: value + own.get(name, 0) for name, value in made.memory.items()},
    )


def tokens_of(recipe: Recipe, config: TransformerConfig) -> int:
    """Tokens of the whole run, in an encoder-decoder of both sides."""
    return recipe.steps * recipe.batch_rows * recipe.training.context_length * (2 if config.encoder_layers else 1)


def planned_pictures(
    recipe: Recipe, config: Picturing, frozen: Frozen, device: "torch.device", **words: Any
) -> Plan:  # fmt: skip
    """The same for a network that learns from pictures; `words` are more of `Plan`."""
    training = recipe.training
    rows, length = max(1, recipe.batch_rows // training.accumulate), frozen.text_length
    crop = checked_dials(recipe, config).get("crop")
    memory = memory_of(
        config, rows, length, state_bytes(training.optimizer), training.ema > 0, crop,
        precision=runtime.pick_products(training.precision, device), checkpointing=training.checkpointing,
    )  # fmt: skip
    made = Plan(
        built.parameters_by_part(config),
        flops_of(config, length, crop),
        recipe.steps * recipe.batch_rows,
        memory,
        unit="pictures",
        **words,
    )
    return beyond(made, runtime.memory_bytes(device))


def _plan_pictures(recipe: Recipe, device: "torch.device", measure: bool) -> Plan:
    """Nothing is prepared: a vocabulary is taken to be as large as the recipe allows, and labels as many as it says."""
    training, frozen = recipe.training, Frozen(recipe)
    tokenizer = frozen.tokenizer()
    size = recipe.tokenizer.size if tokenizer is None else tokenizer.vocab_size
    config = picture_config(recipe, frozen, vocab_size=size)
    precision = runtime.pick_products(training.precision, device)
    rows = max(1, recipe.batch_rows // training.accumulate)
    crop = checked_dials(recipe, config).get("crop")
    rate = measured(config, rows, frozen.text_length, precision, device, crop) if measure else (0.0, "")
    found = [Derived("device", str(device), "the first GPU where there is one, else the CPU")]
    found += [Derived("pixels", str(side_of(config, frozen.clip)), "what the network reads")]
    if reads_captions(recipe):
        why = "tokenizer.size, at the most" if tokenizer is None else "the frozen networks' tokenizer"
        found += [Derived("vocabulary", f"{size:,}", why)]
        found += [
            Derived("text length", f"{frozen.text_length} tokens", "training.context_length, or frozen networks'")
        ]
    for name, one in frozen.folders.items():
        found += [Derived(name, f"{built.parameters(one.config):,} parameters", f"frozen, from {one.path}")]
    return planned_pictures(recipe, config, frozen, device, rate=rate[0], measured=rate[1], derived=tuple(found))


def network_of(recipe: Recipe) -> tuple[Language, tuple[Derived, ...]]:
    """The network; where its data is not there yet, the vocabulary is taken to be as large as the recipe allows."""
    wish = recipe.tokenizer
    if recipe.model.from_ is None and wish.file is None and wish.kind == "bpe":
        return _largest(recipe, wish.size, "tokenizer.size, at the most")
    try:
        tokenizer = tokenizer_of(recipe)
    except DataError:
        return _largest(recipe, len(SPECIAL) + 256 + 100, "a guess: the data is not there yet")
    return config_of(recipe, tokenizer), (Derived("vocabulary", f"{tokenizer.size:,}", "the tokenizer's"),)


def _largest(recipe: Recipe, texts: int, source: str) -> tuple[Language, tuple[Derived, ...]]:
    """The network for so many ids of texts and, where there are pictures, those of their codes."""
    if recipe.looks:
        return recipe.network(texts + 1), (Derived("vocabulary", f"{texts + 1:,}", f"{source}, and one of pictures"),)
    if (wish := recipe.tokenizer.pictures) is None:
        return recipe.network(texts), (Derived("vocabulary", f"{texts:,}", source),)
    beside = ImageTokenizer.beside(networks.load(wish.from_), texts, wish.text_length).vocabulary
    why = f"{source}, and {beside.size - texts:,} of pictures"
    return recipe.network(beside.size, beside), (Derived("vocabulary", f"{beside.size:,}", why),)


def _derived(recipe: Recipe, config: Language, precision: str, device: str) -> list[Derived]:
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
