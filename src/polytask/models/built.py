"""Costs of networks that no formula covers, read off the network itself, built where nothing is allocated."""

from collections import Counter
from functools import cache
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Buildable(Protocol):
    """A configuration that builds its network, whatever kind that is."""

    def build(self) -> nn.Module: ...


@cache
def parameters_by_part(config: Any) -> dict[str, int]:
    """Learned numbers by the network's own parts; one that two parts share counts once."""
    counts: Counter[str] = Counter()
    for name, parameter in _outline(config).named_parameters():
        counts[name.partition(".")[0].replace("_", " ")] += parameter.numel()
    return dict(counts)


def parameters(config: Any) -> int:
    """All learned numbers."""
    return sum(parameters_by_part(config).values())


def flops(config: Any, **given: Tensor) -> int:
    """FLOPs of one forward pass over those inputs, whose shapes alone matter; of products, as is usual."""
    from torch.utils.flop_counter import FlopCounterMode

    network = _outline(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(**{name: value.to("meta") for name, value in given.items()})
    return int(counter.get_total_flops())


def activation_bytes(config: Any, **given: Tensor) -> int:
    """Bytes that a pass over those inputs keeps for the way back, in float32; parameters are not counted."""
    network = _outline(config).train()
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(**{name: value.to("meta") for name, value in given.items()})
    return sum(storage.nbytes() for storage in kept.values())


def _outline(config: Any) -> nn.Module:
    with torch.device("meta"):
        return config.build()
