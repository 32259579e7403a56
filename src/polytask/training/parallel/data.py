"""Data parallel training under torchrun: every process has its own rows, and parameters, gradients and optimizer state
are split over all of them (ZeRO stage 3, Rajbhandari et al. 2020; torch's fully_shard)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from polytask.errors import ConfigError


@dataclass(frozen=True)
class World:
    """The processes of a run; one process is a world of its own, for which every call below is free."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def share(self, value: Any) -> Any:
        """The first process's value, on all of them."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined(device: str = "cpu") -> Iterator[World]:
    """The world that torchrun describes in the environment, and its process group; alone without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    if "RANK" not in os.environ:
        raise ConfigError("WORLD_SIZE is set but RANK is not: start several processes with torchrun.")
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def shard(module: nn.Module, blocks: list[nn.Module], world: World) -> None:
    """Splits the module's parameters over all processes, in place: each block by itself, then the rest."""
    if world.size == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(module.parameters()).device.type, (world.size,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    # The root would keep its parameters whole after a forward pass without a backward one, and miss changes to them.
    fully_shard(module, mesh=mesh, reshard_after_forward=True)


def synchronize_gradients(module: nn.Module, on: bool) -> None:
    """Whether the next backward pass sums gradients over processes; accumulation needs it only at its end."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(on)


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """Lets parts of the module be called by themselves: what is not in a block is whole meanwhile, blocks as called.

    Every process must make the same calls.
    """
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()
