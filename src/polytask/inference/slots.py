"""Slots of the key/value cache: who owns which. Those in use are always the first ones, without a gap.

A batch over neighbouring slots reads the cache in place; one over scattered slots would copy all of it at every step.
So when a slot becomes free, the last one in use moves into it, which costs one copy of one sequence.
"""

from collections.abc import Callable, Iterable

from polytask.inference.sequence import Sequence
from polytask.models.transformer import Transformer
from polytask.nn.cache import KVCache


class SlotPool:
    """At most `size` slots of `length` places; memory is taken by doubling as slots and places are first needed.

    `moved(source, target)` is told when a sequence moves.
    """

    def __init__(self, network: Transformer, size: int, length: int, moved: Callable[[int, int], None]):
        self.size, self.length = size, length
        self._network, self._moved = network, moved
        self.owners: list[Sequence] = []
        self.cache: KVCache = network.new_cache(1, min(64, length))

    @property
    def free(self) -> int:
        return self.size - len(self.owners)

    def take(self, sequence: Sequence) -> None:
        """Gives the sequence the next slot; there must be a free one."""
        assert self.free > 0, "the scheduler admits no more than there are slots"
        sequence.slot = len(self.owners)
        self.owners.append(sequence)

    def release(self, sequences: Iterable[Sequence]) -> None:
        """Takes the slots back and closes the gaps."""
        for sequence in sorted(sequences, key=lambda s: -s.slot):
            last = self.owners.pop()
            if last is not sequence:
                if last.slot < self.cache.slots:  # else it has not run yet, and has nothing to move
                    self.cache.copy(last.slot, [sequence.slot], last.computed)
                self._moved(last.slot, sequence.slot)
                last.slot = sequence.slot
                self.owners[last.slot] = last
            sequence.slot = -1

    def room(self, places: int, memory: int = 0) -> KVCache:
        """The cache with a row for every owner, at least `places` in each and `memory` for an encoder's output."""
        old = self.cache
        wanted = (len(self.owners), places, memory)
        if wanted[0] <= old.slots and places <= old.length and memory <= old.memory_length:
            return old
        slots, length, memory = (_doubled(*pair) for pair in zip(wanted, (old.slots, old.length, old.memory_length)))
        self.cache = self._network.new_cache(min(slots, self.size), min(length, self.length), memory)
        self.cache.take(old)
        return self.cache


def _doubled(needed: int, present: int) -> int:
    size = max(present, 1) if needed else present
    while size < needed:
        size *= 2
    return size
