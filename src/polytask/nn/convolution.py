"""Blocks of U-Nets on pictures (B, C, H, W), kept with their channels last in memory (Dhariwal and Nichol 2021)."""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Resampling = Literal["down", "up"]


class Convolution(nn.Conv2d):
    """torch's. On a CPU, in evaluation and without gradients, the weight is laid out for the product once and not at
    every call: of many channels and few pixels that is most of the work (docs/log.md). A CPU without instructions for
    bfloat16 multiplies it in float32, which is four times as fast there.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1):
        super().__init__(inputs, outputs, kernel, stride, kernel // 2)
        self._packed: tuple[tuple, Tensor, Tensor] | None = None

    def reset_parameters(self) -> None:
        """Nothing: `initialize` of the whole network draws all weights."""

    def train(self, mode: bool = True) -> "Convolution":
        self._packed = None  # fused optimizers change weights without a trace
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled() or x.device.type != "cpu" or not _packs():
            return super().forward(x)
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        kind = product_type(x.dtype)
        if kind is None:
            return super().forward(x)
        weight, bias = self._layout(kind, x.shape)
        padding, stride = list(self.padding), list(self.stride)
        given = x.to(kind).contiguous(memory_format=torch.channels_last)
        y = torch.ops.mkldnn._convolution_pointwise(
            given, weight, bias, padding, stride, [1, 1], 1, "none", [], ""
        )  # fmt: skip
        return y.to(x.dtype)  # type: ignore[no-any-return]

    def _layout(self, kind: torch.dtype, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Weight and bias for products of that type, laid out anew where the weight has changed since."""
        weight, bias = self.weight, self.bias
        assert bias is not None
        state = (kind, weight.data_ptr(), bias.data_ptr(), _version(weight), _version(bias))
        if self._packed is None or self._packed[0] != state:
            # The layout serves pictures of any size; that of the first is where it is best.
            packed = torch.ops.mkldnn._reorder_convolution_weight(
                weight.detach().to(kind), list(self.padding), list(self.stride), [1, 1], 1, list(shape)
            )
            self._packed = (state, packed, bias.detach().to(kind))
        return self._packed[1], self._packed[2]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_packed": None}  # copies lay out their own


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _packs() -> bool:
    available = torch.backends.mkldnn.is_available() and not torch.compiler.is_compiling()
    return available and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")


def product_type(kind: torch.dtype) -> torch.dtype | None:
    """What the products of that type are best made in on this CPU; None where they are left to torch."""
    if kind == torch.bfloat16:
        return kind if torch.cpu._is_avx512_bf16_supported() else torch.float32
    return kind if kind == torch.float32 else None


class GroupNorm(nn.GroupNorm):
    """torch's, for x (B, C, H, W) with channels last in memory, of which it makes in bfloat16 on a CPU 2 to 60 times as
    much work as of one with channels first (docs/log.md)."""

    def __init__(self, groups: int, channels: int):
        super().__init__(groups, channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.bfloat16:
            return super().forward(x)
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


class ActivatedNorm(GroupNorm):
    """silu(norm(x)), or with scale and shift (B, C) silu(norm(x) (1 + scale) + shift)."""

    def forward(self, x: Tensor, scale_shift: Tensor | None = None) -> Tensor:
        y = super().forward(x)
        if scale_shift is not None:
            scale, shift = scale_shift[:, :, None, None].chunk(2, dim=1)
            y = torch.addcmul(shift, y, 1 + scale)
        return F.silu(y, inplace=not torch.is_grad_enabled())


def upsampled(x: Tensor) -> Tensor:
    """Twice as large, each number four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


RESAMPLED: dict[Resampling, Callable[[Tensor], Tensor]] = {"down": lambda x: F.avg_pool2d(x, 2), "up": upsampled}


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), where the embedding (B, E), already activated, scales and shifts the
    second norm (Dhariwal and Nichol 2021, section 3: BigGAN's block, adaptive group normalization).

    resampling: the picture is made half or twice as large before the first convolution, and the shortcut too.
    """

    def __init__(
        self, inputs: int, outputs: int, embedding: int, groups: int, dropout: float = 0.0,
        resampling: Resampling | None = None,
    ):  # fmt: skip
        super().__init__()
        self.resample = RESAMPLED[resampling] if resampling else None
        self.norm = ActivatedNorm(groups, inputs)
        self.inner = Convolution(inputs, outputs)
        self.embedding = nn.Linear(embedding, 2 * outputs)
        self.inner_norm = ActivatedNorm(groups, outputs)
        self.dropout = nn.Dropout(dropout)
        self.outer = Convolution(outputs, outputs)
        self.shortcut = Convolution(inputs, outputs, kernel=1) if inputs != outputs else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        y = self.norm(x)
        if self.resample is not None:
            x, y = self.resample(x), self.resample(y)
        y = self.inner_norm(self.inner(y), self.embedding(embedding))
        y = self.outer(self.dropout(y))
        return (x if self.shortcut is None else self.shortcut(x)) + y


class Resample(nn.Module):
    """Half as large by a strided convolution, or twice as large by a convolution of repeated numbers."""

    def __init__(self, channels: int, outputs: int, resampling: Resampling):
        super().__init__()
        self.up = resampling == "up"
        self.convolution = Convolution(channels, outputs, stride=1 if self.up else 2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.convolution(upsampled(x) if self.up else x)  # type: ignore[no-any-return]


def sinusoids(t: Tensor, width: int) -> Tensor:
    """Cosines and then sines of t (B,), (B, width), of periods from 2 pi to 20000 pi (Ho et al. 2020's code)."""
    frequency = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=t.device) / (width // 2))
    angles = t.float()[:, None] * frequency
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class NumberEmbedding(nn.Module):
    """A number for each picture, such as the step, as a vector: sinusoids and a network of one hidden layer."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.width = width
        self.hidden, self.output = nn.Linear(width, outputs), nn.Linear(outputs, outputs)

    def forward(self, t: Tensor) -> Tensor:
        wave = sinusoids(t, self.width).to(self.hidden.weight.dtype)
        return self.output(F.silu(self.hidden(wave)))  # type: ignore[no-any-return]
