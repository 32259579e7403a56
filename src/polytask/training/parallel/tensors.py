"""Between a tensor that processes share in parts and the whole of it."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def unsplit(tensor: Tensor) -> Tensor:
    """The whole tensor where it is; itself where nobody else has a part of it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A copy of the whole tensor on the CPU; where it is in parts, every process must ask for it."""
    return unsplit(tensor).detach().to("cpu", copy=True).contiguous()


def gather(tensors: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """Whole copies by name; a process that does not `keep` them takes part and drops them one by one."""
    gathered = {}
    for name, tensor in tensors.items():
        value = whole(tensor)
        if keep:
            gathered[name] = value
    return gathered


def like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """The tensor on the pattern's device, and in the same parts where both have one shape."""
    tensor = tensor.to(pattern.device)
    if isinstance(pattern, DTensor) and tensor.shape == pattern.shape:
        # Every process has the whole, so each takes its part without any traffic.
        return distribute_tensor(tensor, pattern.device_mesh, pattern.placements, src_data_rank=None)
    return tensor


@torch.no_grad()
def copy_into(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        targets[name].copy_(like(tensor, targets[name]))
