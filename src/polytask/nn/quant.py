"""Weights as whole numbers: 8 bits with a scale for each output channel, or 4 bits with one for each 32 columns.

Activations stay as they come, and so does what is looked up by row. For few rows the products read the whole numbers
(`nn.kernels`), for many they are widened first, unless the CPU multiplies tiles.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask import runtime
from polytask.nn import surgery
from polytask.nn.experts import ExpertsLayer, Groups
from polytask.nn.kernels.library import LOADER, NO_NORM, Norm
from polytask.nn.kernels.products import FEW, alike, kernels, many
from polytask.nn.stacked import Stacked

Bits = Literal[8, 4]
GROUP, TILE = 32, 16  # columns that share a scale in 4 bits; outputs that lie side by side
PLACES = [[0, 16], [4, 20], [8, 24], [12, 28]]  # where each of 8 columns begins; no tensor, see `runtime.prepare`
PIECE = 1 << 18  # weights that are quantised together, so that their passes stay in the processor's cache


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (R, C) as int8 (R, C) and scales (R,), rounded to nearest: |weight - int8 * scale| <= scale / 2."""
    scales, whole = weight.new_empty(len(weight)), torch.empty_like(weight, dtype=torch.int8)
    rows = max(1, PIECE // weight.shape[1])
    for part, scale, to in zip(weight.split(rows), scales.split(rows), whole.split(rows), strict=True):
        least, most = part.aminmax(dim=1)
        torch.maximum(most, -least, out=scale).div_(127).clamp_(min=1e-12)
        to.copy_((part / scale[:, None]).round_())
    return whole, scales


def quantize_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (R, C) as whole numbers from -8 to 7, int8 (R, G, 32), and bfloat16 scales (R, G), G = ceil(C / 32).

    A group's largest weight is -8 times a first scale; the scale that then gives the least squares rounds once more,
    which leaves 8.4% of normal weights' root mean square as error (8.6% by the first scale alone).
    """
    groups = F.pad(weight, (0, -weight.shape[1] % GROUP)).unflatten(1, (-1, GROUP))  # (R, G, 32)
    least, most = groups.aminmax(dim=2, keepdim=True)
    first = _rounded(groups, torch.where(-least > most, least, most) / -8)
    fitted = (first * groups).sum(2, keepdim=True) / first.square().sum(2, keepdim=True).clamp(min=1)
    scales = fitted.bfloat16()
    return _rounded(groups, scales.float()).to(torch.int8), scales[:, :, 0]


def _rounded(groups: Tensor, scales: Tensor) -> Tensor:
    return (groups * torch.where(scales == 0, 0, 1 / scales)).round_().clamp_(-8, 7)


def pack(whole: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers (R, G, 32) and scales (R, G) as the kernel reads them, R filled up to tiles of 16 outputs.

    (R / 16, 4 G, 16) int32, eight columns of one output in each, and (R / 16, G, 16).
    """
    short = -len(whole) % TILE
    eights = (F.pad(whole, (0, 0, 0, 0, 0, short)) + 8).int().unflatten(2, (4, 4, 2))  # (R, G, 4, 4, 2)
    packed = (eights << torch.tensor(PLACES, dtype=torch.int32)).sum((-1, -2), dtype=torch.int32).flatten(1)  # (R, 4 G)
    tiles = packed.unflatten(0, (-1, TILE)).mT.contiguous()
    return tiles, F.pad(scales, (0, 0, 0, short)).unflatten(0, (-1, TILE)).mT.contiguous()


def unpack(packed: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights that `pack` was given, rows and columns filled up with zeros, (R, 32 G)."""
    places = torch.tensor(PLACES, dtype=torch.int32, device=packed.device)
    eights = (packed.mT[..., None, None] >> places) & 15  # (tiles, 16, 4 G, 4, 2)
    groups = (eights - 8).to(dtype).flatten(2).unflatten(2, (-1, GROUP))  # (tiles, 16, G, 32)
    return (groups * scales.mT[..., None].to(dtype)).flatten(2).flatten(0, 1)


class QuantizedLinear(nn.Module):
    """What both kinds of layer share; `weight` and `scales` are buffers in the layout of their kind."""

    kind: str  # of weights, as the kernels call it
    weight: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor, bias: nn.Parameter | None):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        whole, scales = self.quantized(weight.detach().float())
        self.register_buffer("weight", whole)
        self.register_buffer("scales", scales)
        self.bias = bias

    def quantized(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def most(self, x: Tensor) -> int:
        """How many rows the kernels are the fastest for, where there are no tiles."""
        return FEW

    def product(self, x: Tensor, norm: Norm = NO_NORM, **after: Any) -> Tensor | None:
        """The layer's output for norm(x) by the kernels, where they take it; see `Library.product`."""
        library = kernels(x, self.out_features, self.in_features, self.most(x))
        if library is None or not alike(x, self.bias, after.get("onto")):
            return None
        return library.product(self.kind, x, self.weight, self.scales, self.bias, self.out_features, norm, **after)

    def widened(self, x: Tensor) -> Tensor | None:
        """The weights (out, in) in bfloat16 by the kernels, where x is multiplied fast by such."""
        if not x.is_cpu or x.dtype != torch.bfloat16 or torch.compiler.is_compiling() or not runtime.fast_bfloat16():
            return None
        if (library := LOADER.get()) is None:
            return None
        return library.widened(self.kind, self.weight, self.scales, self.out_features, self.in_features)

    def by_torch(self, x: Tensor) -> Tensor:
        """The layer's output without the kernels."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if (product := self.product(x)) is not None:
            return product
        wide = self.widened(x) if x.numel() > FEW * x.shape[-1] else None
        return self.by_torch(x) if wide is None else many(x, wide, self.bias)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        """Moves as all modules do, but scales keep their precision."""
        kept = self.scales
        super()._apply(fn, recurse)
        self.scales = kept.to(self.scales.device)
        return self


class Int8Linear(QuantizedLinear):
    """A linear layer that keeps its weights as int8, (out, in), and its activations as they come."""

    kind = "int8"

    def quantized(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return quantize_rows(weight)

    def by_torch(self, x: Tensor) -> Tensor:
        rows, scales = x.numel() // x.shape[-1], self.scales.to(x.dtype)
        if x.is_cpu and x.dtype == torch.bfloat16 and 0 < rows <= FEW and self.in_features % 32 == 0:  # else it crashes
            y = torch.ops.aten._weight_int8pack_mm(x.reshape(rows, -1), self.weight, scales).view(*x.shape[:-1], -1)
        else:
            y = many(x, self.weight.to(x.dtype)) * scales
        return y if self.bias is None else y + self.bias


class Int4Linear(QuantizedLinear):
    """A linear layer that keeps its weights in 4 bits, as `pack` lays them, and its activations as they come."""

    kind = "int4"

    def quantized(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        rows = max(1, PIECE // weight.shape[1] // TILE) * TILE
        pieces = [pack(*quantize_groups(piece)) for piece in weight.split(rows)]
        return torch.cat([packed for packed, _ in pieces]), torch.cat([scales for _, scales in pieces])

    def most(self, x: Tensor) -> int:
        """All of them, where torch has no products that are so much faster that widening is worth it."""
        return FEW if x.dtype == torch.bfloat16 and runtime.fast_bfloat16() else x.numel()

    def by_torch(self, x: Tensor) -> Tensor:
        weight = unpack(self.weight, self.scales, x.dtype)[: self.out_features, : self.in_features]
        return many(x, weight, self.bias)


class QuantizedExperts(ExpertsLayer):
    """A layer of experts whose matrices are quantised layers of their own; its router stays as it is."""

    def __init__(self, layer: ExpertsLayer, kind: type[QuantizedLinear]):
        nn.Module.__init__(self)
        self.part, self.router, self.activation = layer.part, layer.router, layer.activation
        self.opening = nn.ModuleList(kind(matrix, None) for matrix in layer.first)
        self.closing = nn.ModuleList(kind(matrix, None) for matrix in layer.down)

    def _experts(self, tokens: Tensor, gates: Tensor, groups: Groups) -> Tensor:
        given = tokens.index_select(0, groups.assignments // gates.shape[1])  # (A + 1, D)
        results, start = torch.zeros_like(given), 0
        for opening, closing, end in zip(self.opening, self.closing, groups.ends.tolist(), strict=True):
            if end > start:
                results[start:end] = closing(self._inner(opening(given[start:end])))
            start = end
        return F.embedding_bag(groups.places, results, mode="sum", per_sample_weights=gates.to(results.dtype))


def quantize(network: nn.Module, bits: Bits = 8) -> list[str]:
    """Quantises every linear layer and all experts in place, the output matrix in 8 bits whatever `bits`; the names of
    the layers.

    Embeddings stay as they are: they are looked up by row. Where they are the output matrix too, its product gets a
    copy in 8 bits: some bytes more, and less to read for each token.
    """
    output = getattr(network, "output_weight", None)
    kind = {8: Int8Linear, 4: Int4Linear}[bits]

    def wanted(_: str, module: nn.Module) -> bool:
        return type(module) in (nn.Linear, Stacked, ExpertsLayer) and getattr(module, "weight", None) is not output

    def quantized(layer: nn.Module) -> nn.Module:
        if isinstance(layer, ExpertsLayer):
            return QuantizedExperts(layer, kind)
        return kind(layer.weight, layer.bias)  # type: ignore[arg-type]

    names = surgery.replace(network, wanted, quantized)
    if output is not None:
        network.output = Int8Linear(output, None)
        names.append("output")
    return names
