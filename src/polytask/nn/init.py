"""How fresh weights are drawn: small functions with one signature, (network, layers, dim, generator)."""

import math

import torch
from torch import Generator, nn

from polytask.nn.matrices import matrices
from polytask.registry import Registry

RESIDUAL_OUTPUTS = ("attention.output", "cross.output", "feedforward.down")


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
        elif name in ("position.weight", "grid.weight"):
            nn.init.normal_(parameter, std=position_std, generator=generator)


def _normal(network: nn.Module, std: float, layers: int, generator: Generator) -> None:
    """Matrices N(0, std), outputs of residual branches divided by sqrt(2 layers)."""
    for matrix in matrices(network):
        scale = 1 / math.sqrt(2 * layers) if matrix.name.endswith(RESIDUAL_OUTPUTS) else 1.0
        nn.init.normal_(matrix.weight, std=std * scale, generator=generator)


@torch.no_grad()
def gpt(network: nn.Module, layers: int, dim: int, generator: Generator) -> None:
    """N(0, 0.02), positions 0.01, outputs of residual branches divided by sqrt(2 layers) (GPT-2 code)."""
    _zero_biases_and_reset_norms(network)
    _tables(network, 0.02, 0.01, generator)
    _normal(network, 0.02, layers, generator)


@torch.no_grad()
def xavier(network: nn.Module, layers: int, dim: int, generator: Generator) -> None:
    """Xavier uniform with embeddings N(0, dim^-1/2), the usual port of the Transformer; the paper gives none."""
    _zero_biases_and_reset_norms(network)
    _tables(network, dim**-0.5, dim**-0.5, generator)
    for matrix in matrices(network):
        for rows in matrix.weight.split(matrix.parts, dim=-2):
            bound = math.sqrt(6 / sum(rows.shape[-2:]))
            nn.init.uniform_(rows, -bound, bound, generator=generator)


@torch.no_grad()
def zero_residual(network: nn.Module, layers: int, dim: int, generator: Generator) -> None:
    """Uniform with variance 1/fan_in, outputs of residual branches zero: every block starts as the identity."""
    _zero_biases_and_reset_norms(network)
    _tables(network, 0.02, 0.01, generator)
    for matrix in matrices(network):
        if matrix.name.endswith(RESIDUAL_OUTPUTS):
            nn.init.zeros_(matrix.weight)
        else:
            bound = math.sqrt(3 / matrix.weight.shape[-1])
            nn.init.uniform_(matrix.weight, -bound, bound, generator=generator)
            if matrix.name == "output":  # small logits: the first loss is ln(vocabulary)
                matrix.weight.mul_(0.1)


@torch.no_grad()
def fan_in(network: nn.Module, layers: int, dim: int, generator: Generator) -> None:
    """Matrices N(0, 1/sqrt(fan_in)), embeddings N(0, 1) (Chowdhery et al. 2022, section 5)."""
    _zero_biases_and_reset_norms(network)
    _tables(network, 1.0, 1.0, generator)
    for matrix in matrices(network):
        nn.init.normal_(matrix.weight, std=matrix.weight.shape[-1] ** -0.5, generator=generator)


@torch.no_grad()
def megatron(network: nn.Module, layers: int, dim: int, generator: Generator) -> None:
    """N(0, sqrt(1/(3 dim))), outputs of residual branches divided by sqrt(2 layers) (Smith et al. 2022)."""
    _zero_biases_and_reset_norms(network)
    std = math.sqrt(1 / (3 * dim))
    _tables(network, std, std, generator)
    _normal(network, std, layers, generator)


INITIALIZATIONS = Registry(
    "initialization",
    {"gpt": gpt, "xavier": xavier, "zero_residual": zero_residual, "fan_in": fan_in, "megatron": megatron},
)
