"""Builds a configuration from a recipe's words: a system, perhaps one of its sizes, and changes to it."""

import dataclasses
import inspect
from typing import Any, TypeVar

from polytask.errors import ConfigError
from polytask.models.config import TransformerConfig
from polytask.models.vision_language import VisionLanguageConfig
from polytask.nn.part import Part, from_plain
from polytask.registry import Registry, nearest

Config = TypeVar("Config", bound=Part)

# What can be built: a family as a function of its dials.
SYSTEMS = Registry(
    "system",
    {
        "transformer": "polytask.systems.transformer:transformer",
        "gpt3": "polytask.systems.gpt3:gpt3",
        "glam": "polytask.systems.glam:glam",
        "lamda": "polytask.systems.lamda:lamda",
        "mtnlg": "polytask.systems.mtnlg:mtnlg",
        "instructgpt": "polytask.systems.gpt3:gpt3",
        "palm": "polytask.systems.palm:palm",
        "bloom": "polytask.systems.bloom:bloom",
        "clip": "polytask.systems.clip:small",
        "classifier": "polytask.systems.classifier:classifier",
        "dvae": "polytask.systems.dalle:autoencoder",
        "ddpm": "polytask.systems.ddpm:ddpm",
        "imagen": "polytask.systems.imagen:base",
        "imagen-upsampler": "polytask.systems.imagen:larger",
        "instruct-pix2pix": "polytask.systems.instruct_pix2pix:editor",
        "dalle2": "polytask.systems.dalle2:decoder",
        "dalle2-upsampler": "polytask.systems.dalle2:larger",
        "dalle2-prior": "polytask.systems.dalle2:prior",
        "dalle": "polytask.systems.dalle:dalle",
        "generalist": "polytask.systems.generalist:generalist",
        "vision-language": "polytask.systems.gpt4:vision_language",
    },
)
# What is published of each, by size; systems whose architecture is not public have a row too, without a configuration.
PRESETS = Registry(
    "system",
    {
        "transformer": "polytask.systems.transformer:SIZES",
        "gpt3": "polytask.systems.gpt3:SIZES",
        "glam": "polytask.systems.glam:SIZES",
        "lamda": "polytask.systems.lamda:SIZES",
        "mtnlg": "polytask.systems.mtnlg:SIZES",
        "instructgpt": "polytask.systems.instructgpt:SIZES",
        "palm": "polytask.systems.palm:SIZES",
        "bloom": "polytask.systems.bloom:SIZES",
        "chatgpt": "polytask.systems.instructgpt:CHATGPT",
        "gpt4": "polytask.systems.gpt4:SIZES",
        "dalle2": "polytask.systems.dalle2:SIZES",
        "imagen": "polytask.systems.imagen:SIZES",
        "clip": "polytask.systems.clip:SIZES",
        "dalle": "polytask.systems.dalle:SIZES",
        "generalist": "polytask.systems.generalist:SIZES",
    },
)


def build_config(system: str, size: str | None = None, **changes: Any) -> Any:
    """The configuration of `system`, of a language network or of one for pictures: a published `size` with `changes`
    to its fields, or the family called with them.

    Raises ConfigError for an unknown system, size or field, naming the nearest.
    """
    if system in PRESETS and system not in SYSTEMS:
        raise ConfigError(
            f"model: {system} cannot be built, since its architecture is not public; see what is known of it: polytask "
            f"systems show {system}"
        )
    family = SYSTEMS.get(system)
    if size is not None:
        sizes = PRESETS.get(system) if system in PRESETS else {}
        if size not in sizes:
            raise ConfigError(f"{system} has no size '{size}': {nearest(size, sizes)}")
        return change(sizes[size].config, changes)
    signature = inspect.signature(family)
    dials = signature.parameters
    given = {name: from_plain(value) for name, value in changes.items() if name in dials}
    rest = {name: value for name, value in changes.items() if name not in dials}
    known = set(dials) | {field.name for field in dataclasses.fields(signature.return_annotation)}
    for name in rest:
        if name not in known:
            raise ConfigError(f"model: {system} has no '{name}': {nearest(name, known)}")
    try:
        return change(family(**given), rest)
    except TypeError as error:
        sizes = f"; or name a size: {nearest('', PRESETS.get(system))}" if system in PRESETS else ""
        raise ConfigError(f"model: {system} cannot be built: {error}{sizes}") from None


def draws(system: str) -> bool:
    """Whether the network of a system learns from pictures with captions or labels, not from texts."""
    return inspect.signature(SYSTEMS.get(system)).return_annotation not in (TransformerConfig, VisionLanguageConfig)


def looks(system: str) -> bool:
    """Whether the network of a system writes and looks at pictures by itself."""
    return inspect.signature(SYSTEMS.get(system)).return_annotation is VisionLanguageConfig


def dials_of(system: str) -> list[str]:
    """The names of all that a recipe may say of a system beside its size."""
    signature = inspect.signature(SYSTEMS.get(system))
    return [*signature.parameters, *(field.name for field in dataclasses.fields(signature.return_annotation))]


def change(config: Config, changes: dict[str, Any]) -> Config:
    """`config` with some fields replaced; parts may be given as plain data, {kind: Rotary, theta: 500000}."""
    known = {field.name for field in dataclasses.fields(config)}
    for name in changes:
        if name not in known:
            raise ConfigError(f"model: there is no '{name}': {nearest(name, known)}")
    return dataclasses.replace(config, **{name: from_plain(value) for name, value in changes.items()})
