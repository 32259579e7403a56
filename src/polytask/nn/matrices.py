"""The matrices of a network's products, whatever kind of layer holds them."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from polytask.nn.experts import ExpertsLayer
from polytask.nn.stacked import Stacked


@dataclass(frozen=True)
class Matrix:
    """name: of the layer, or for experts of their parameter. weight (R, C), or (E, R, C) for experts, each a matrix by
    itself. parts: rows of the projections that share it (`nn.stacked`); one that is not shared has one part.
    """

    name: str
    weight: Tensor
    parts: tuple[int, ...]


def matrices(network: nn.Module) -> Iterator[Matrix]:
    """Those of linear layers, experts and their routers, in order of the network; embeddings are none."""
    for name, module in network.named_modules():
        if isinstance(module, ExpertsLayer):
            part = module.part
            yield Matrix(f"{name}.router", module.router.weight, (part.count,))
            yield Matrix(f"{name}.{module.first_name}", module.first, (part.width,) * (2 if part.gated else 1))
            yield Matrix(f"{name}.down", module.down, (module.down.shape[-2],))
        elif isinstance(module, nn.Linear):
            parts = module.parts if isinstance(module, Stacked) else (module.out_features,)
            yield Matrix(name, module.weight, parts)
