"""Weight-only int8: each output channel's weights are whole numbers from -127 to 127 times one scale."""

import torch
from torch import Tensor, nn

from polytask.nn import surgery

FEW = 16  # rows up to which the kernel that reads int8 beats widening the weights first (measured, docs/log.md)


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (R, C) as int8 (R, C) and scales (R,), rounded to nearest: |weight - int8 * scale| <= scale / 2."""
    scales = (weight.abs().amax(dim=1) / 127).clamp(min=1e-12)
    return (weight / scales[:, None]).round().to(torch.int8), scales


class Int8Linear(nn.Module):
    """A linear layer that keeps its weights as int8 and its activations as they come."""

    weight: Tensor
    scales: Tensor

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight, scales = quantize_rows(linear.weight.detach().float())
        self.register_buffer("weight", weight)
        self.register_buffer("scales", scales.to(linear.weight.dtype))
        self.bias = linear.bias
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        rows = x.numel() // x.shape[-1]
        if x.device.type == "cpu" and x.dtype == torch.bfloat16 and rows <= FEW:
            flat = x.reshape(rows, x.shape[-1])
            y = torch.ops.aten._weight_int8pack_mm(flat, self.weight, self.scales).view(*x.shape[:-1], -1)
        else:
            y = nn.functional.linear(x, self.weight.to(x.dtype)) * self.scales.to(x.dtype)
        return y if self.bias is None else y + self.bias


def quantize(network: nn.Module) -> list[str]:
    """Quantises every linear layer in place, the output matrix apart; the names of the layers.

    Embeddings and the output matrix stay: they are looked up by row, and their errors show first. Layers of experts and
    their routers are no linear layers and stay too.
    """
    output = getattr(network, "output_weight", None)

    def wanted(_: str, module: nn.Module) -> bool:
        return isinstance(module, nn.Linear) and module.weight is not output

    def build(module: nn.Module) -> nn.Module:
        assert isinstance(module, nn.Linear)
        return Int8Linear(module)

    return surgery.replace(network, wanted, build)
