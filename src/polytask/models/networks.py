"""Which network a configuration describes."""

from typing import Any

from polytask.nn.part import Part
from polytask.registry import Registry

NETWORKS = Registry(
    "network",
    {
        "TransformerConfig": "polytask.models.transformer:Transformer",
        "CLIPConfig": "polytask.models.clip:CLIP",
        "AutoencoderConfig": "polytask.models.dvae:Autoencoder",
        "PriorConfig": "polytask.models.prior:Prior",
        "VisionLanguageConfig": "polytask.models.vision_language:VisionLanguage",
    },
)


def build(config: Part) -> Any:
    """The network, its weights not yet drawn."""
    return NETWORKS.get(type(config).__name__)(config)
