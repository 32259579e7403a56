"""Position information, as parts given by value.

Learned and sinusoidal positions add to the embedding (Vaswani et al. 2017, section 3.5); rotary positions turn
queries and keys inside attention. `Unpositioned` leaves order to the causal mask alone.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from polytask.nn.part import Part


@dataclass(frozen=True)
class Unpositioned(Part):
    pass


@dataclass(frozen=True)
class Learned(Part):
    """One learned vector for each position up to the context length; positions beyond it do not exist."""


@dataclass(frozen=True)
class Sinusoidal(Part):
    """Fixed sines and cosines with wavelengths from 2 pi to 10000 x 2 pi (Vaswani et al. 2017, section 3.5).

    The paper interleaves them (sine on even channels); Marian, fairseq and tensor2tensor put all sines first ("half").
    """

    layout: Literal["interleaved", "half"] = "interleaved"

    def table(self, positions: Tensor, dim: int) -> Tensor:
        """(..., D) float32 for integer positions (...)."""
        channel = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float64)
        angle = positions[..., None].double() * torch.exp(channel * (-math.log(10_000.0) / dim))  # (..., D/2)
        parts = [angle.sin(), angle.cos()]
        return (torch.stack(parts, -1).flatten(-2) if self.layout == "interleaved" else torch.cat(parts, -1)).float()


@dataclass(frozen=True)
class Rotary(Part):
    """Rotates query and key pairs by an angle proportional to position (Su et al. 2021, equation 34)."""

    theta: float = 10_000.0
    layout: Literal["half", "interleaved"] = (
        "half"  # Llama and NeoX pair channel i with i + K/2; GPT-J pairs neighbours
    )

    def angles(self, positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each (B, 1, T, K/2) in float32, for integer positions (B, T)."""
        exponent = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.int64).float() / head_dim
        angle = positions[:, None, :, None].float() * (1.0 / self.theta**exponent)
        return angle.cos(), angle.sin()

    def rotate(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """x (B, H, T, K) turned by the angles of its positions."""
        cos, sin = (part.to(x.dtype) for part in angles)
        if self.layout == "half":
            a, b = x.chunk(2, dim=-1)
            return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)


class PositionEmbedding(nn.Module):
    """What is added to token embeddings: the learned table, or sinusoids kept for the context length."""

    def __init__(self, part: Part, context_length: int, dim: int):
        super().__init__()
        self.part = part
        if isinstance(part, Learned):
            self.weight = nn.Parameter(torch.empty(context_length, dim))
        elif isinstance(part, Sinusoidal):
            self.register_buffer("weight", part.table(torch.arange(context_length), dim), persistent=False)

    def fill_buffers(self) -> None:
        if isinstance(self.part, Sinusoidal):
            length, dim = self.weight.shape
            self.weight.copy_(self.part.table(torch.arange(length, device=self.weight.device), dim))

    def forward(self, positions: Tensor) -> Tensor:  # (B, T) -> (B, T, D)
        return nn.functional.embedding(positions, self.weight)
