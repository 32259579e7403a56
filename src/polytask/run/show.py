"""What a checkpoint folder says about itself, in words for people."""

from collections import Counter
from typing import Any

from polytask.interop import networks
from polytask.interop.folder import read_folder
from polytask.models import built, cost
from polytask.models.config import TransformerConfig
from polytask.models.networks import Language
from polytask.models.vision_language import VisionLanguageConfig
from polytask.nn.block import Placement
from polytask.nn.part import Part, to_plain

FEW = 4  # parts that take turns, up to which they stand in their order
NORMS: dict[Placement, str] = {
    "pre": "before each sub-layer",
    "post": "after each sum",
    "sandwich": "before and after each sub-layer",
    "parallel": "one before both sub-layers, which run in parallel",
    "parallel_norms": "one before each of two sub-layers, which run in parallel",
}


def describe(model: str) -> dict[str, Any]:
    """Nested plain data. Raises CheckpointError where there is no sound checkpoint at `model`."""
    if networks.is_drawing(model):
        return _picturing(networks.read(model))
    folder = read_folder(model)
    config, about = folder.config, dict(folder.about)
    parts = {name: count for name, count in cost.parameters_by_part(config).items() if count}
    return {
        "folder": str(folder.path),
        "parameters": cost.parameters(config),
        "by part": parts,
        "architecture": architecture(config.decoder) | _sight(config),
        "tokenizer": {"tokens": folder.tokenizer.size, "fingerprint": folder.tokenizer.fingerprint[:12]},
        "own tasks": [file.stem for file in folder.task_files],
        "cache": f"{cost.kv_bytes_per_token(config.decoder) / 1024:.1f} KiB a token",
        **about,
    }


def _picturing(folder: networks.NetworkFolder) -> dict[str, Any]:
    """The same of a network for pictures, with the frozen networks that its folder holds."""
    shown: dict[str, Any] = {
        "folder": str(folder.path),
        "parameters": built.parameters(folder.config),
        "by part": built.parameters_by_part(folder.config),
        "architecture": fields(folder.config),
    }
    if folder.tokenizer is not None:
        shown["tokenizer"] = {"tokens": folder.tokenizer.vocab_size, "fingerprint": folder.tokenizer.fingerprint[:12]}
    parts = {name: networks.read(path, check=False) for name, path in folder.parts.items()}
    shown["frozen parts, parameters"] = {name: built.parameters(part.config) for name, part in parts.items()}
    drawn = {name: part.about["drawing"] for name, part in parts.items() if part.about.get("drawing")}
    shown |= {"frozen parts, drawing": drawn} if drawn else {}
    return {**shown, **folder.about}


def architecture(config: TransformerConfig) -> dict[str, Any]:
    """What a network is made of, in words."""
    kind = "encoder-decoder" if config.encoder_layers else "decoder"
    shown = {"kind": kind, "layers": config.layers, "encoder layers": config.encoder_layers or None}
    shown |= {"width": config.dim, "context": config.context_length, "vocabulary": config.vocab_size}
    for name in ("attention", "feedforward", "norm", "position"):
        shown[name] = words(getattr(config, name))
    return shown | {"norms": NORMS[config.placement], "tied output": config.tied}


def _sight(config: Language) -> dict[str, Any]:
    """How a network looks at pictures."""
    if not isinstance(config, VisionLanguageConfig):
        return {}
    seen = config.vision
    return {"vision": f"{seen.image} pixels in patches of {seen.patch}, {seen.layers} layers of {seen.dim}, "
            f"{config.states} states a picture"}  # fmt: skip


def fields(config: Part) -> dict[str, Any]:
    """A configuration field by field, without those that say nothing."""
    shown = {name.replace("_", " "): value for name, value in to_plain(config).items() if value}
    return {name: _sequence(value) if isinstance(value, list) else value for name, value in shown.items()}


def _sequence(values: list[Any]) -> str:
    return ", ".join(map(str, values))


def words(part: Any) -> str:
    """A part as it is written in code, without the fields that say nothing; parts that take turns one after another, or
    where they are many, each with how often it comes."""
    if isinstance(part, tuple):
        counts = Counter(map(words, part))
        few = len(part) <= FEW or len(counts) == len(part)
        return "; ".join(map(words, part) if few else (f"{count} x {word}" for word, count in counts.items()))
    if not isinstance(part, Part):
        return str(part)
    plain = to_plain(part)
    fields = ", ".join(f"{k}={v['kind'] if isinstance(v, dict) else v}" for k, v in plain.items() if k != "kind" and v)
    return f"{plain['kind']}({fields})"
