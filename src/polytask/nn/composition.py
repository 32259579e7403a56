"""Of what a network is made: whoever keeps something that follows from it looks here whether it is still the same."""

import weakref

from torch import Tensor, nn


class Composition:
    """Of what modules, parameters and buffers a network is made, what was written to them and which hooks it has.

    Unseen is what nobody counts: writes to `tensor.data`, steps of torch's fused optimizers (ours are counted), writes
    to tensors that were made in inference mode; and what modules do with other attributes than these.
    `torch.autograd.graph.increment_version(network.parameters())` counts one more write.
    """

    def __init__(self, network: nn.Module):
        self._network = network
        self._take()

    def _take(self) -> None:
        modules = list(self._network.modules())
        holders = [held for m in modules for held in (m._modules, m._parameters, m._buffers)]
        self._parts = [(held, name, part) for held in holders for name, part in held.items()]
        self._hooks = [hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        self._tensors = [part for _, _, part in self._parts if isinstance(part, Tensor)]
        self._memory = [weakref.ref(tensor.untyped_storage()) for tensor in self._tensors]
        self._places, self._before = self._lying(), self._state()

    def _lying(self) -> list[int]:
        return [tensor.data_ptr() for tensor in self._tensors]

    def _state(self) -> tuple[list[int], list[list[int]]]:
        """How often each tensor was written to, and each hook's number, which is given once."""
        return [version(tensor) for tensor in self._tensors], [list(hooks) for hooks in self._hooks if hooks]

    @property
    def holds(self) -> bool:
        """Whether it still is made of these."""
        return all(held.get(name) is part for held, name, part in self._parts)

    @property
    def stays(self) -> bool:
        """Whether, beyond that, all tensors lie where they did."""
        if not self.holds or any(m() is not t.untyped_storage() for m, t in zip(self._memory, self._tensors)):
            return False  # other memory may lie where this one lay
        return self._lying() == self._places

    def changed(self) -> bool:
        """Whether it has become another network since this was made or asked; 0.06 ms for 150 tensors."""
        if self.stays and self._state() == self._before:
            return False
        self._take()
        return True

    @property
    def hooked(self) -> bool:
        """Whether anything is to be called on the way through it."""
        return any(self._hooks)


def version(tensor: Tensor) -> int:
    """How often it was written to; 0 where nobody counts."""
    try:
        return tensor._version
    except RuntimeError:  # its data were made in inference mode, which `is_inference` says of the tensor alone
        return 0
