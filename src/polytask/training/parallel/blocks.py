"""What is applied to each block of a built network from outside: recomputation and compilation."""

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from polytask.nn.experts import ExpertsLayer


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The members of the outermost module lists: the layers of every stack."""
    found = []
    for child in network.children():
        found += list(child) if isinstance(child, nn.ModuleList) else blocks_of(child)
    return found


def checkpoint_activations(blocks: list[nn.Module]) -> None:
    """Keeps only each block's input for the backward pass and computes the rest again (Chen et al. 2016)."""
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def compile_blocks(blocks: list[nn.Module]) -> None:
    """Compiles block by block: blocks of one shape share one compilation, and names stay as they are.

    Experts are left as they are: how many tokens each has is known only when it is computed.
    """
    for block in blocks:
        for module in block.modules():
            if isinstance(module, ExpertsLayer):
                module.forward = torch.compiler.disable(module.forward)  # type: ignore[assignment]
        block.compile()
