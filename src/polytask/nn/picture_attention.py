"""Attention of a picture's places to each other and to a text, with all keys side by side (Nichol et al. 2021)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.nn import cpu_attention, masks
from polytask.nn.convolution import GroupNorm
from polytask.nn.stacked import Stacked


class TextStates(NamedTuple):
    """states (B, L, D) and which of them are of the text, (B, L) bool; None means all."""

    states: Tensor
    mask: Tensor | None = None


class PictureAttention(nn.Module):
    """x + output(attention(norm(x))) for x (B, C, H, W).

    text: width of text states, 0 for none; their keys and values stand beside those of the picture. alone: the picture
    attends to the text and not to itself. inner: width of all heads together.
    """

    def __init__(self, channels: int, heads: int, inner: int, groups: int, text: int = 0, alone: bool = False):
        super().__init__()
        self.heads, self.parts = heads, (inner,) * (1 if alone else 3)
        self.norm = GroupNorm(groups, channels)
        self.qkv = Stacked(channels, self.parts, bias=True)
        self.text = Stacked(text, (inner, inner), bias=True) if text else None
        self.output = nn.Linear(inner, channels)

    def forward(self, x: Tensor, text: TextStates | None = None) -> Tensor:
        places = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)  # (B, H W, C), no copy where channels are last
        q, *own = (self._heads(part) for part in self.qkv(places).split(self.parts, dim=-1))
        keys, values, mask = own[:1], own[1:], None
        if self.text is not None and text is not None:
            k, v = (self._heads(part) for part in self.text(text.states.to(x.dtype)).chunk(2, dim=-1))
            keys, values = [k, *keys], [v, *values]
            if text.mask is not None:
                mask = F.pad(text.mask, (0, own[0].shape[2] if own else 0), value=True)[:, None, None]  # (B, 1, 1, S)
        if not keys:
            return x
        mixed = _mixed(q, _joined(keys), _joined(values), mask)
        y = self.output(mixed.transpose(1, 2).flatten(-2)).unflatten(1, x.shape[-2:])
        return x + y.permute(0, 3, 1, 2)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, S, H K) -> (B, H, S, K)


def _mixed(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention (B, H, S, K), by our way where a CPU trains."""
    if q.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, keys, values, mask)
    return cpu_attention.attention(q, keys, values, None if mask is None else masks.additive(mask, q.dtype))


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


class TextPooling(nn.Module):
    """One vector for a text, by attention of its mean to its states (Saharia et al. 2022, appendix B: attention
    pooling; the form is GLIDE's and CLIP's)."""

    def __init__(self, width: int, outputs: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key_value = nn.Linear(width, width), Stacked(width, (width, width), bias=True)
        self.output = nn.Linear(width, outputs)

    def forward(self, text: TextStates) -> Tensor:
        states, mask = text
        weight = torch.ones_like(states[..., :1]) if mask is None else mask[..., None].to(states.dtype)
        mean = (states * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
        states = torch.cat([mean, states], dim=1)
        q = self.query(mean).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.key_value(states).chunk(2, dim=-1)
        )
        seen = None if mask is None else F.pad(mask, (1, 0), value=True)[:, None, None]
        mixed = F.scaled_dot_product_attention(q, k, v, seen)
        return self.output(mixed.transpose(1, 2).flatten(1))  # type: ignore[no-any-return]
