"""How a preset states what a publication printed beside what we build."""

from dataclasses import dataclass, field
from typing import Any

from polytask.models.config import TransformerConfig


@dataclass(frozen=True)
class Published:
    """One row of a publication's table: the configuration we build and the figures as printed, with their source.

    parameters: the printed count. exact: the count of our configuration under the convention of the system's docstring.
    training: printed hyperparameters (batch in tokens, learning rate, ...); values nobody can build stay in `printed`.
    """

    config: TransformerConfig
    parameters: float
    source: str
    training: dict[str, Any] = field(default_factory=dict)
    printed: dict[str, Any] = field(default_factory=dict)
