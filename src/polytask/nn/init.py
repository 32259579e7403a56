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
        elif name == "position.weight":
            nn.init.normal_(parameter, std=position_std, generator=generator)


@torch.no_grad()
def gpt(network: nn.Module, layers: int, dim: int, generator: Generator) -> None:
    """N(0, 0.02), positions 0.01, outputs of residual branches divided by sqrt(2 layers) (GPT-2 code)."""
    _zero_biases_and_reset_norms(network)
    _tables(network, 0.02, 0.01, generator)
    for matrix in matrices(network):
        scale = 1 / math.sqrt(2 * layers) if matrix.name.endswith(RESIDUAL_OUTPUTS) else 1.0
        nn.init.normal_(matrix.weight, std=0.02 * scale, generator=generator)


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


INITIALIZATIONS = Registry("initialization", {"gpt": gpt, "xavier": xavier, "zero_residual": zero_residual})
