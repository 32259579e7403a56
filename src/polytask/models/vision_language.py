"""Pictures and text in, text out, as GPT-4 has it.

How GPT-4 reads pictures is not public, so this is the open design of LLaVA (Liu et al. 2023, arXiv:2304.08485 and
2310.03744): states of a vision transformer pass a small network and stand in the decoder's sequence like tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polytask.errors import ConfigError
from polytask.models.config import TransformerConfig
from polytask.models.heads import Head
from polytask.models.transformer import Transformer
from polytask.models.vit import ViT, ViTConfig
from polytask.nn.cache import Context
from polytask.nn.feedforward import ACTIVATIONS
from polytask.nn.part import Part


@dataclass(frozen=True)
class VisionLanguageConfig(Part):
    """placeholder: the id in whose places the states of pictures stand. left_out: so many last layers of the vision
    transformer are not used. class_state: whether its first state is given to the decoder too. activation, bias: of the
    two layers between.
    """

    vision: ViTConfig
    text: TransformerConfig
    placeholder: int
    left_out: int = 1
    class_state: bool = False
    activation: str = "gelu"
    bias: bool = True

    def __post_init__(self) -> None:
        ACTIVATIONS.get(self.activation)
        if not 0 <= self.left_out <= self.vision.layers:
            raise ConfigError(f"left_out={self.left_out!r} of {self.vision.layers} layers of vision; give fewer.")
        if self.states >= self.text.context_length:
            raise ConfigError(
                f"A picture of {self.vision.image} pixels in patches of {self.vision.patch} has {self.states} states, "
                f"and the context holds {self.text.context_length}; take larger patches or a longer context_length."
            )
        if not 0 <= self.placeholder < self.text.vocab_size:
            raise ConfigError(
                f"placeholder={self.placeholder!r} is no id of the decoder, which has {self.text.vocab_size}; choose "
                "one of its own that no text has."
            )

    def build(self) -> "VisionLanguage":
        return VisionLanguage(self)

    @property
    def states(self) -> int:
        """Of a picture, in the decoder's sequence."""
        return self.vision.patches + self.class_state

    @property
    def decoder(self) -> TransformerConfig:
        return self.text


class VisionLanguage(nn.Module):
    def __init__(self, config: VisionLanguageConfig):
        super().__init__()
        self.config = c = config
        self.vision, self.text = ViT(c.vision), Transformer(c.text)
        self.activation = ACTIVATIONS.get(c.activation)
        self.first = nn.Linear(c.vision.dim, c.text.dim, bias=c.bias)
        self.second = nn.Linear(c.text.dim, c.text.dim, bias=c.bias)

    @torch.no_grad()
    def initialize(self, seed: int = 0) -> "VisionLanguage":
        """Draws fresh weights; the two layers between N(0, 1/sqrt(fan_in)). Returns self."""
        generator = torch.Generator().manual_seed(seed)
        self.vision.initialize(generator)
        self.text.initialize(seed)
        for linear in (self.first, self.second):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5, generator=generator)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        return self

    def fill_buffers(self) -> None:
        self.text.fill_buffers()

    @property
    def decoder(self) -> Transformer:
        """What reads texts and states, and writes."""
        return self.text

    @property
    def head(self) -> Head:
        return self.text.head

    def look(self, pixels: Tensor) -> Tensor:
        """What the decoder reads of pictures (P, 3, S, S) in [-1, 1]: (P, N, D)."""
        states = self.vision(pixels, self.config.left_out)
        states = states if self.config.class_state else states[:, 1:]
        return self.second(self.activation(self.first(states)))

    def given(self, pixels: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        """For a context: where states stand (B, T), and these; pixels and shown as `data.batch.Batch` has them."""
        places = shown >= 0
        return places, self.look(pixels).flatten(0, 1)[shown[places]]

    def expanded(self, ids: Sequence[int]) -> list[int]:
        """Ids with a placeholder for each state of a picture where there was one for each picture."""
        c = self.config
        return [i for one in ids for i in ([one] * c.states if one == c.placeholder else [one])]

    def forward(self, ids: Tensor, context: Context, pixels: Tensor | None = None) -> Tensor:
        """Hidden states (B, T, D) for ids (B, T), expanded, and all pictures (P, 3, S, S) of the batch in order.

        Raises ConfigError where there are not as many places as pictures need.
        """
        places = ids == self.config.placeholder
        states = ids.new_zeros(0, self.config.text.dim) if pixels is None else self.look(pixels).flatten(0, 1)
        if (found := int(places.sum())) != len(states):
            raise ConfigError(
                f"The text has {found} places for states of pictures, and there are {len(states)}, "
                f"{self.config.states} a picture; give as many pictures as it speaks of."
            )
        context.given = (places, states) if len(states) else None
        return self.text(ids, context)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return self.text.logits(hidden)
