"""The decoder and the encoder-decoder (Vaswani et al. 2017), wired once from the parts of a TransformerConfig."""

import math
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn

from polytask.models.config import TransformerConfig
from polytask.models.heads import Head
from polytask.nn.attention import CrossAttention
from polytask.nn.block import Block
from polytask.nn.cache import Context, Memory, Scorer
from polytask.nn.init import INITIALIZATIONS
from polytask.nn.paged import CacheView, KVCache
from polytask.nn.position import (
    Alibi,
    GridEmbedding,
    Learned,
    PositionEmbedding,
    RelativeBuckets,
    RelativeScores,
    Sinusoidal,
    TextAndGrid,
)


class Transformer(nn.Module):
    """Token ids to hidden states; `logits` turns those into scores over the vocabulary where they are needed."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        # torch's own drawing, which is drawn over anyway, takes seconds: on the meta device it imports a compiler.
        self.embedding = nn.Embedding.from_pretrained(torch.empty(config.vocab_size, config.dim), freeze=False)
        self.embedding_norm = config.embedding_norm.build(config.dim) if config.embedding_norm else None  # type: ignore[attr-defined]
        added = isinstance(config.position, Learned | Sinusoidal | TextAndGrid)
        self.position = PositionEmbedding(config.position, config.context_length, config.dim) if added else None
        self.dropout = nn.Dropout(config.dropout)
        heads, part = config.attention_of(0).heads, config.position
        shared = part if isinstance(part, RelativeBuckets) and part.shared else None
        self.relative = shared.build(heads, causal=True) if shared else None
        self.encoder_relative = shared.build(heads, causal=False) if shared and config.encoder_layers else None
        self.grid = GridEmbedding(config.grid, config.dim) if config.grid else None
        self.encoder = self._stack(config.encoder_layers, cross=False, causal=False)
        self.encoder_norm = self._final_norm() if config.encoder_layers else None
        self.blocks = self._stack(config.layers, cross=config.encoder_layers > 0)
        self.norm = self._final_norm()
        self.output = None if config.tied else nn.Linear(config.dim, config.vocab_size, bias=False)
        self.output_bias = nn.Parameter(torch.empty(config.vocab_size)) if config.output_bias else None

    def _stack(self, layers: int, cross: bool, causal: bool = True) -> nn.ModuleList:
        c = self.config
        return nn.ModuleList(
            Block(
                c.dim, c.attention_of(layer), c.feedforward_of(layer), c.norm, c.position, layer,
                placement=c.placement, dropout=c.dropout, cross=cross, causal=causal,
            )
            for layer in range(layers)
        )  # fmt: skip

    def _final_norm(self) -> nn.Module:
        return self.config.norm.build(self.config.dim) if self.config.final_norm else nn.Identity()  # type: ignore[attr-defined]

    def initialize(self, seed: int = 0) -> "Transformer":
        """Draws fresh weights from `seed`; the same seed gives the same weights on every machine. Returns self."""
        generator = torch.Generator().manual_seed(seed)
        layers = self.config.layers + self.config.encoder_layers
        INITIALIZATIONS.get(self.config.initialization)(self, layers, self.config.dim, generator)
        return self

    def fill_buffers(self) -> None:
        """Computes what no checkpoint holds (sinusoids), after a build on the meta device."""
        if self.position is not None:
            self.position.fill_buffers()

    @property
    def decoder(self) -> "Transformer":
        """Itself; networks that look at pictures have it inside."""
        return self

    @property
    def scale(self) -> float:
        """What embeddings are multiplied by; a decoder's is of their precision, as Gemma has it and Marian has not."""
        if not self.config.scale_embedding:
            return 1.0
        whole = math.sqrt(self.config.dim)
        return whole if self.config.encoder_layers else _rounded(whole, self.embedding.weight.dtype)

    @property
    def output_weight(self) -> Tensor:
        """The matrix of the last product, (V, D)."""
        return self.embedding.weight if self.output is None else self.output.weight

    @property
    def head(self) -> Head:
        """All of what comes after the last norm."""
        layer = None if isinstance(self.output, nn.Linear | None) else self.output
        return Head(self.output_weight, self.output_bias, self.config.logit_scale, self.config.logit_cap, layer)

    def embed(
        self, ids: Tensor, positions: Tensor, given: tuple[Tensor, Tensor] | None = None, grid: Tensor | None = None
    ) -> Tensor:
        x = self.embedding(ids)  # (B, T, D)
        if (scale := self.scale) != 1.0:
            x = x * scale
        if given is not None:
            x = x.masked_scatter(given[0][..., None], given[1].to(x.dtype))
        if self.position is not None:
            x = x + self.position(positions).to(x.dtype)
        if self.grid is not None:
            x = x + self.grid(self.grid.part.places(ids, positions) if grid is None else grid).to(x.dtype)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        return self.dropout(x)

    def _scorer(self, relative: RelativeScores | None) -> Scorer | None:
        """What makes the scores that positions add in every layer."""
        part, (heads, _, head_dim) = self.config.position, self.config.attention_of(0).sizes(self.config.dim)
        if isinstance(part, Alibi):
            return lambda queries, keys: part.scores(queries, keys, heads, head_dim)
        return relative

    def _scores(self, context: Context, relative: RelativeScores | None) -> Tensor | None:
        """What positions add to the scores of every layer, (1 or B, H, T, S)."""
        part, scorer = self.config.position, self._scorer(relative)
        absolute = isinstance(part, Alibi) and part.scaled
        return None if scorer is None else scorer(*context.places(absolute))

    def encode(self, ids: Tensor, context: Context) -> Memory:
        """The encoder's output for ids (B, S); every token sees its whole document."""
        own = Context(context.positions, context.documents, causal=False)
        own.scores = self._scores(own, self.encoder_relative)
        x = self.embed(ids, context.positions)
        for block in self.encoder:
            x = block(x, own)
        context.routing = own.take_routing()
        if self.encoder_norm is not None:
            x = self.encoder_norm(x)
        return Memory(x, context.documents)

    def forward(self, ids: Tensor, context: Context) -> Tensor:
        """Hidden states (B, T, D) after the last norm, for ids (B, T)."""
        if context.cache is None:
            context.scores = self._scores(context, self.relative)
        else:
            context.scorer = self._scorer(self.relative)
        if context.whole and context.ordered:
            context.self_mask(None)  # so that compiled blocks find the same, the first one too, and are compiled once
        x = self.embed(ids, context.positions, context.given, context.grid)
        for block in self.blocks:
            x = block(x, context)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return self.head.logits(hidden)

    def new_cache(self, blocks: int) -> KVCache:
        """An empty key/value cache in the precision and on the device of the weights."""
        _, kv_heads, head_dim = self.config.attention_of(0).sizes(self.config.dim)
        weight = self.embedding.weight
        return KVCache(self.config.layers, kv_heads, head_dim, blocks, dtype=weight.dtype, device=weight.device)

    def remember(self, view: CacheView, states: Tensor) -> None:
        """Puts the encoder's output (M, D), row after row, into the cache."""
        for layer, block in enumerate(self.blocks):
            view.write_memory(layer, *cast(CrossAttention, block.cross).keys_and_values(states[None]))


@cache
def _rounded(number: float, dtype: torch.dtype) -> float:
    return torch.tensor(number, dtype=dtype, device="cpu").item()
