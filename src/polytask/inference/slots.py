"""Slots of the key/value cache: who owns which. Those in use are always the first ones, without a gap.

A batch over neighbouring slots reads the cache in place; one over scattered slots would copy all of it at every step.
So when a slot becomes free, the last one in use moves into it, which costs one copy of one sequence.
"""

from collections.abc import Callable, Iterable
from typing import Any

from polytask.inference.sequence import Sequence
from polytask.nn.cache import KVCache


class SlotPool:
    """At most `size` slots of `length` places; memory is taken as slots are first needed, doubling.

    `moved(source, target)` is told when a sequence moves.
    """

    def __init__(self, network: Any, size: int, length: int, memory_length: int, moved: Callable[[int, int], None]):
        self.size, self.length = size, length
        self._network, self._memory_length, self._moved = network, memory_length, moved
        self.owners: list[Sequence] = []
        self.cache: KVCache = network.new_cache(0, length, memory_length)

    @property
    def free(self) -> int:
        return self.size - len(self.owners)

    def take(self, sequence: Sequence) -> None:
        """Gives the sequence the next slot; there must be a free one."""
        assert self.free > 0, "the scheduler admits no more than there are slots"
        sequence.slot = len(self.owners)
        self.owners.append(sequence)
        if len(self.owners) > self.cache.slots:
            self._grow()

    def release(self, sequences: Iterable[Sequence]) -> None:
        """Takes the slots back and closes the gaps."""
        for sequence in sorted(sequences, key=lambda s: -s.slot):
            last = self.owners.pop()
            if last is not sequence:
                if last.computed:
                    self.cache.copy(last.slot, [sequence.slot], last.computed)
                self._moved(last.slot, sequence.slot)
                last.slot = sequence.slot
                self.owners[last.slot] = last
            sequence.slot = -1

    def _grow(self) -> None:
        old = self.cache
        self.cache = new = self._network.new_cache(
            min(self.size, max(1, 2 * old.slots)), self.length, self._memory_length
        )
        for source, target in (
            (old.keys, new.keys), (old.values, new.values),
            (old.memory_keys, new.memory_keys), (old.memory_values, new.memory_values),
        ):  # fmt: skip
            target[:, : old.slots] = source
        new.memory_lengths[: old.slots] = old.memory_lengths
