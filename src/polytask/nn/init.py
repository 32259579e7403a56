"""How fresh weights are drawn: small functions with one signature, (network, layers, dim, generator)."""

import math
from collections.abc import Iterator

import torch
from torch import Generator, nn

from polytask.nn.stacked import Stacked
from polytask.registry import Registry

RESIDUAL_OUTPUTS = ("attention.output", "cross.output", "feedforward.down")


def _linears(network: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    return ((name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear))


def _zero_biases_and_reset_norms(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if name == "output_bias" or name.endswith("relative.weight"):
            nn.init.zeros_(parameter)
    for module in network.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            module.reset_parameters()


def _tables(network: nn.Module, std: float, position_std: float, generator: Generator) -> None:
    for name, parameter in network.named_parameters():
        if name == "embedding.weight":
            nn.init.normal_(parameter, std=std, generator=generator)
        elif name == "position.weight":
            nn.init.normal_(parameter, std=position_std, generator=generator)


@torch.no_grad()
def gpt(network: nn.Module, layers: int, dim: int, generator: Generator) -> None:
    """N(0, 0.02), positions 0.01, outputs of residual branches divided by sqrt(2 layers) (GPT-2 code)."""
    _zero_biases_and_reset_norms(network)
    _tables(network, 0.02, 0.01, generator)
    for name, linear in _linears(network):
        scale = 1 / math.sqrt(2 * layers) if name.endswith(RESIDUAL_OUTPUTS) else 1.0
        nn.init.normal_(linear.weight, std=0.02 * scale, generator=generator)


@torch.no_grad()
def xavier(network: nn.Module, layers: int, dim: int, generator: Generator) -> None:
    """Xavier uniform with embeddings N(0, dim^-1/2), the usual port of the Transformer; the paper gives none."""
    _zero_biases_and_reset_norms(network)
    _tables(network, dim**-0.5, dim**-0.5, generator)
    for _, linear in _linears(network):
        parts = linear.parts if isinstance(linear, Stacked) else (linear.out_features,)
        for rows in linear.weight.split(parts):
            bound = math.sqrt(6 / (linear.in_features + len(rows)))
            nn.init.uniform_(rows, -bound, bound, generator=generator)


@torch.no_grad()
def zero_residual(network: nn.Module, layers: int, dim: int, generator: Generator) -> None:
    """Uniform with variance 1/fan_in, outputs of residual branches zero: every block starts as the identity."""
    _zero_biases_and_reset_norms(network)
    _tables(network, 0.02, 0.01, generator)
    for name, linear in _linears(network):
        if name.endswith(RESIDUAL_OUTPUTS):
            nn.init.zeros_(linear.weight)
        else:
            bound = math.sqrt(3 / linear.in_features)
            nn.init.uniform_(linear.weight, -bound, bound, generator=generator)
            if name == "output":  # small logits: the first loss is ln(vocabulary)
                linear.weight.mul_(0.1)


INITIALIZATIONS = Registry("initialization", {"gpt": gpt, "xavier": xavier, "zero_residual": zero_residual})
