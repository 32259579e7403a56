"""Which network a configuration describes."""

import dataclasses
import inspect
from typing import Any

from polytask.models.classifier import ClassifierConfig
from polytask.models.clip import CLIPConfig
from polytask.models.config import TransformerConfig
from polytask.models.diffusion import DiffusionConfig
from polytask.models.dvae import AutoencoderConfig
from polytask.models.prior import PriorConfig
from polytask.models.transformer import Transformer
from polytask.models.vision_language import VisionLanguageConfig

Language = TransformerConfig | VisionLanguageConfig
"""Networks that write, some of which look at pictures."""
Picturing = AutoencoderConfig | ClassifierConfig | CLIPConfig | DiffusionConfig | PriorConfig
"""Networks that learn from pictures with captions or labels."""


def side_of(config: Picturing, clip: CLIPConfig | None = None) -> int:
    """Of the pictures that a network learns from, in pixels; `clip` makes the embeddings of a prior."""
    match config:
        case AutoencoderConfig() | ClassifierConfig():
            return config.image
        case CLIPConfig():
            return config.vision.image
        case DiffusionConfig():
            return config.unet.pixels
    assert clip is not None
    return clip.vision.image


def with_decoder(config: Language, **changes: Any) -> Language:
    """The same with other fields of the decoder."""
    decoder = dataclasses.replace(config.decoder, **changes)
    return dataclasses.replace(config, text=decoder) if isinstance(config, VisionLanguageConfig) else decoder


def is_network(config: Any) -> bool:
    """Whether it describes a whole network; other parts build only within one, for a width."""
    if isinstance(config, TransformerConfig):
        return True
    return hasattr(config, "build") and not inspect.signature(config.build).parameters


def build(config: Any) -> Any:
    """The network, its weights not yet drawn."""
    return Transformer(config) if isinstance(config, TransformerConfig) else config.build()
