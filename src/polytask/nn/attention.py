"""Scaled dot-product attention with grouped heads (Vaswani et al. 2017, section 3.2; Ainslie et al. 2023)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.errors import ConfigError
from polytask.nn import cpu_attention, varlen
from polytask.nn.cache import Context
from polytask.nn.kernels.products import apply
from polytask.nn.part import Part
from polytask.nn.position import RelativeBuckets, Rotary, Turn
from polytask.nn.projection import project
from polytask.nn.sparse import Pattern
from polytask.nn.stacked import Stacked


@dataclass(frozen=True)
class Attention(Part):
    """How one layer attends.

    kv_heads: heads of keys and values, shared by groups of query heads (None: as many as heads). head_dim: None means
    dim / heads. window: a token sees this many last tokens, itself included; None sees all (GPT-3's locally banded
    layers have one). qk_norm: normalises each query and key head (Henry et al. 2020; Dehghani et al. 2023). scale: of
    the products of queries and keys; None means 1 / sqrt(head_dim), T5 and GPT-Neo have 1. cap: scores are bent to stay
    within +-cap, cap tanh(score / cap) (Gemma 2, section 2). output_bias: None means as `bias`. pattern: which tokens
    of a picture a token of it sees (DALL-E); None sees all.
    """

    heads: int
    kv_heads: int | None = None
    head_dim: int | None = None
    bias: bool = False
    window: int | None = None
    qk_norm: Part | None = None
    scale: float | None = None
    cap: float | None = None
    output_bias: bool | None = None
    pattern: Pattern | None = None

    def __post_init__(self) -> None:
        self.expect_numbers("heads", "kv_heads", "head_dim", "window", whole=True)
        self.expect_numbers("scale", "cap")
        if self.heads % (self.kv_heads or self.heads):
            raise ConfigError(f"attention: heads={self.heads} must be a multiple of kv_heads={self.kv_heads}")

    def sizes(self, dim: int) -> tuple[int, int, int]:
        """(query heads, key/value heads, head width). Raises ConfigError where the width does not divide."""
        if self.head_dim is None and dim % self.heads:
            raise ConfigError(
                f"attention: dim={dim} is not a multiple of heads={self.heads}; set head_dim or change one"
            )
        return self.heads, self.kv_heads or self.heads, self.head_dim or dim // self.heads

    @property
    def biased_output(self) -> bool:
        return self.bias if self.output_bias is None else self.output_bias

    def parameters(self, dim: int) -> int:
        heads, kv_heads, width = self.sizes(dim)
        inner, kv = heads * width, kv_heads * width
        bias = (inner + 2 * kv if self.bias else 0) + (dim if self.biased_output else 0)
        norm = 2 * sum(p.numel() for p in self.qk_norm.build(width).parameters()) if self.qk_norm else 0  # type: ignore[attr-defined]
        return 2 * dim * inner + 2 * dim * kv + bias + norm


class _Heads(nn.Module):
    """What self- and cross-attention share: head sizes, query-key norm, output projection."""

    def __init__(self, dim: int, part: Attention):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = part.sizes(dim)
        self.query_norm = part.qk_norm.build(self.head_dim) if part.qk_norm else None  # type: ignore[attr-defined]
        self.key_norm = part.qk_norm.build(self.head_dim) if part.qk_norm else None  # type: ignore[attr-defined]
        self.scale, self.cap = part.scale, part.cap
        self.output = nn.Linear(self.heads * self.head_dim, dim, bias=part.biased_output)

    def split(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, self.head_dim)).transpose(1, 2)  # (B, T, H K) -> (B, H, T, K)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, context: Context, window: int | None, scores: Tensor | None = None,
        cross: bool = False, onto: Tensor | None = None, pattern: Pattern | None = None,
    ) -> Tensor:  # fmt: skip
        """The heads' outputs, projected; `scores` (1 or B, H, T, S) are what positions add to those of q and k."""
        training = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if q.device.type == "cpu" and training and not self.cap:
            k, v = repeated(q, k, v)
            bias, causal = context.bias(q, k, window, cross, pattern), context.ordered and not cross
            mixed = cpu_attention.attention(q, k, v, bias, causal, scale=self.scale, scores=scores, window=window)
        elif self.cap or scores is not None:
            mixed = mix(q, k, v, context.bias(q, k, window, cross, pattern), False, self.scale, self.cap, scores)
        elif not cross and pattern is None and varlen.takes(q, context, window):
            assert context.starts is not None
            k, v = repeated(q, k, v)
            mixed = varlen.attention(q, k, v, context.starts, window, self.scale)
        else:
            mask, is_causal = (context.cross_mask(), False) if cross else context.self_mask(window, pattern)
            mixed = mix(q, k, v, mask, is_causal, self.scale, None, None)
        return self.project(mixed, onto)

    def project(self, mixed: Tensor, onto: Tensor | None = None) -> Tensor:
        """(B, H, T, K) -> (B, T, D), added to `onto`."""
        return apply(self.output, mixed.transpose(1, 2).flatten(-2), onto=onto)


def mix(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None, cap: float | None,
    scores: Tensor | None,
) -> Tensor:  # fmt: skip
    """What the queries (B, H, T, K) take from v (B, kv_heads, S, K). The mask must be additive with cap or scores."""
    grouped = q.shape[1] != k.shape[1]
    if cap:
        k, v = repeated(q, k, v)
        return _capped(q, k, v, scale, cap, mask, scores)
    if scores is not None:
        mask = scores if mask is None else scores + mask
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale, enable_gqa=grouped)


def repeated(q: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Each head of keys and values for every query head that shares it."""
    each = q.shape[1] // tensors[0].shape[1]
    return tensors if each == 1 else tuple(x.repeat_interleave(each, dim=1) for x in tensors)


def _capped(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None, cap: float, bias: Tensor | None, added: Tensor | None
) -> Tensor:
    """Attention written out: no kernel of torch bends its scores."""
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    return bend(scores, cap, bias, added).softmax(dim=-1) @ v


def bend(scores: Tensor, cap: float | None, bias: Tensor | None, added: Tensor | None) -> Tensor:
    """Products of queries and keys become scores: what positions add, the cap, and a mask as a bias."""
    scores = scores if added is None else scores + added
    scores = cap * scores.div(cap).tanh() if cap else scores
    return scores if bias is None else scores + bias


class SelfAttention(_Heads):
    def __init__(self, dim: int, part: Attention, position: Part, layer: int, causal: bool = True):
        super().__init__(dim, part)
        self.layer, self.window, self.pattern = layer, part.window, part.pattern
        self.rotary = position if isinstance(position, Rotary) else None
        own = position if isinstance(position, RelativeBuckets) and not position.shared else None
        self.relative = own.build(self.heads, causal) if own else None
        kv = self.kv_heads * self.head_dim
        self.parts = (self.heads * self.head_dim, kv, kv)
        self.qkv = Stacked(dim, self.parts, bias=part.bias)

    def forward(
        self, x: Tensor, context: Context, norm: nn.Module | None = None, onto: Tensor | None = None
    ) -> Tensor:  # (B, T, D)
        q, k, v = project(x, norm, self.qkv).split(self.parts, dim=-1)
        q, k, v = self.split(q, self.heads), self.split(k, self.kv_heads), self.split(v, self.kv_heads)
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q).to(v.dtype), self.key_norm(k).to(v.dtype)
        turn = self._turn(context)
        if context.cache is not None:
            form = {"window": self.window, "pattern": self.pattern, "scale": self.scale, "cap": self.cap}
            scorer = self.relative or context.scorer
            return self.project(context.cache.attend(self.layer, q, k, v, turn=turn, scorer=scorer, **form), onto)
        if turn is not None:
            q, k = turn(q), turn(k)
        scores = self._scores(context, q.dtype)
        return self.attend(q, k, v, context, self.window, scores, onto=onto, pattern=self.pattern)

    def _turn(self, context: Context) -> Turn | None:
        if (rotary := self.rotary) is None:
            return None
        return context.once(
            (rotary, self.head_dim), lambda: Turn(rotary, rotary.angles(context.positions, self.head_dim))
        )

    def _scores(self, context: Context, dtype: torch.dtype) -> Tensor | None:
        """What positions add: of this layer's own table, or those that all layers share."""
        if self.relative is not None:
            return self.relative(*context.places()).to(dtype)
        shared = context.scores
        return None if shared is None else context.once(("scores", dtype), lambda: shared.to(dtype))


class CrossAttention(_Heads):
    """Queries from the decoder, keys and values from the encoder's output; never positioned by rotation."""

    def __init__(self, dim: int, part: Attention, layer: int):
        super().__init__(dim, part)
        self.layer = layer
        self.query = nn.Linear(dim, self.heads * self.head_dim, bias=part.bias)
        self.key_value = Stacked(dim, (self.kv_heads * self.head_dim,) * 2, bias=part.bias)

    def keys_and_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """(B, kv_heads, S, K) each, from the encoder's output (B, S, D)."""
        k, v = self.key_value(states).chunk(2, dim=-1)
        k, v = self.split(k, self.kv_heads), self.split(v, self.kv_heads)
        return (self.key_norm(k).to(v.dtype) if self.key_norm is not None else k), v

    def forward(
        self, x: Tensor, context: Context, norm: nn.Module | None = None, onto: Tensor | None = None
    ) -> Tensor:  # (B, T, D)
        q = self.split(project(x, norm, self.query), self.heads)
        q = self.query_norm(q).to(q.dtype) if self.query_norm is not None else q
        if context.cache is not None:
            return self.project(context.cache.attend_memory(self.layer, q, scale=self.scale, cap=self.cap), onto)
        if context.memory is None:
            raise ValueError("an encoder-decoder needs context.memory, or a cache that was given one")
        k, v = self.keys_and_values(context.memory.states)
        return self.attend(q, k, v, context, None, cross=True, onto=onto)
