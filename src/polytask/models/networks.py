"""Which network a configuration describes."""

import inspect
from typing import Any

from polytask.models.config import TransformerConfig
from polytask.models.transformer import Transformer


def is_network(config: Any) -> bool:
    """Whether it describes a whole network; other parts build only within one, for a width."""
    if isinstance(config, TransformerConfig):
        return True
    return hasattr(config, "build") and not inspect.signature(config.build).parameters


def build(config: Any) -> Any:
    """The network, its weights not yet drawn."""
    return Transformer(config) if isinstance(config, TransformerConfig) else config.build()
