"""Costs of networks that no formula covers, read off the network itself, built where nothing is allocated."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode


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


def activation_bytes(
    config: Any, *, lower: bool = False, again: Callable[[nn.Module], list[nn.Module]] | None = None, **given: Tensor
) -> int:
    """Bytes that a pass over those inputs keeps for the way back, parameters not counted.

    lower: products are in bfloat16. again: the network's blocks of which the input alone is kept, since the way back
    computes one after the other again.
    """
    parts: list[dict[int, Any]] = [{}]  # storages that are kept all the time, then those of each such block
    open_ = [0]  # which of them is filled, and what is filled again after it

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own and storage._cdata not in parts[0]:
            parts[open_[-1]][storage._cdata] = storage  # held, so that no other takes its place
        return tensor

    def enter(block: nn.Module, args: tuple[Any, ...], words: dict[str, Any]) -> None:
        for value in (*args, *words.values()):
            if isinstance(value, Tensor):
                keep(value)
        open_.append(len(parts))
        parts.append({})

    def leave(*_: Any) -> None:
        open_.pop()

    with FakeTensorMode():  # nothing is allocated, as on "meta", where autocast would leave all in float32
        network = config.build().train()
        own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
        for block in [] if again is None else again(network):
            block.register_forward_pre_hook(enter, with_kwargs=True)
            block.register_forward_hook(leave)
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=lower):
            network(**{name: torch.zeros(value.shape, dtype=value.dtype) for name, value in given.items()})
        always, *each = (sum(storage.nbytes() for storage in part.values()) for part in parts)
    return always + max(each, default=0)


def _outline(config: Any) -> nn.Module:
    with torch.device("meta"):
        return config.build()
