"""What a language network is made of, as one frozen value."""

import dataclasses
from dataclasses import dataclass
from typing import get_args

from polytask.errors import ConfigError
from polytask.nn.attention import Attention
from polytask.nn.block import Placement
from polytask.nn.feedforward import MLP
from polytask.nn.init import INITIALIZATIONS
from polytask.nn.norm import LayerNorm
from polytask.nn.part import Part
from polytask.nn.position import Grid, Learned


@dataclass(frozen=True)
class TransformerConfig(Part):
    """A decoder, or with `encoder_layers` an encoder-decoder that shares its embedding.

    attention: one part for all layers, or several that take turns (GPT-3: dense, banded, dense, ...); they may differ
    in their window and pattern alone, since all layers share one cache. feedforward: one part, or several that take
    turns (GLaM: dense, experts, ...). embedding_norm: one more norm, of the embeddings (BLOOM). tied: the output matrix
    is the embedding. output_bias: one learned number for each logit. logit_scale: what hidden states are multiplied by
    before the last product (PaLM: 1/sqrt(dim)). logit_cap: logits are bent to stay within +-cap (Gemma 2, section 2).
    prefix: what comes before the answer is seen from both sides (a prefix language model, Raffel et al. 2020, section
    3.2.1). scale_embedding: embeddings are multiplied by sqrt(dim). final_norm: one more norm after the last layer,
    which pre-norm networks need. grid: where codes of pictures stand in theirs.
    """

    vocab_size: int
    context_length: int
    layers: int
    dim: int
    attention: Attention | tuple[Attention, ...]
    feedforward: Part | tuple[Part, ...] = MLP(width=2048)
    norm: Part = LayerNorm()
    position: Part = Learned()
    placement: Placement = "pre"
    embedding_norm: Part | None = None
    encoder_layers: int = 0
    prefix: bool = False
    tied: bool = True
    output_bias: bool = False
    logit_scale: float = 1.0
    logit_cap: float | None = None
    scale_embedding: bool = False
    final_norm: bool = True
    dropout: float = 0.0
    initialization: str = "gpt"
    grid: Grid | None = None

    def __post_init__(self) -> None:
        for name, least in (("vocab_size", 1), ("context_length", 1), ("layers", 1), ("dim", 1), ("encoder_layers", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ConfigError(f"model: {name}={value!r} must be a whole number of at least {least}")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"model: dropout={self.dropout} must be at least 0 and below 1")
        if self.placement not in get_args(Placement):
            raise ConfigError(f"model: placement={self.placement!r} must be one of: {', '.join(get_args(Placement))}")
        INITIALIZATIONS.get(self.initialization)
        if len({dataclasses.replace(part, window=None, pattern=None) for part in self.attentions}) > 1:
            raise ConfigError("model: attention parts that take turns may differ in their window and pattern alone")
        self.attentions[0].sizes(self.dim)

    @property
    def decoder(self) -> "TransformerConfig":
        """Itself; networks that look at pictures have it inside."""
        return self

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """The attention parts that take turns over the layers."""
        return self.attention if isinstance(self.attention, tuple) else (self.attention,)

    def attention_of(self, layer: int) -> Attention:
        return self.attentions[layer % len(self.attentions)]

    def feedforward_of(self, layer: int) -> Part:
        parts = self.feedforward if isinstance(self.feedforward, tuple) else (self.feedforward,)
        return parts[layer % len(parts)]
