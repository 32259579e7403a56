"""Which block of the key/value cache is whose, and which hold what somebody may read again.

A full block is known by a name: what stands for the contents before it, and its own tokens. The first one follows a
`root`, which holds all else that decides its contents (what an encoder read, a prefix that is seen from both sides).
Names are compared as a whole, tokens included, so that two texts whose hashes collide stay two. A block that nobody
uses keeps its contents until its room is needed; the least recently used goes first.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import count
from typing import NamedTuple

from polytask.nn.paged import BLOCK


class Name(NamedTuple):
    """What a full block holds: `tokens` after the contents `parent`, a number that is given once, or a root."""

    parent: Hashable
    tokens: tuple[int, ...]


class BlockPool:
    """`total` blocks with reference counts. Blocks that follow each other are given wherever possible."""

    def __init__(self, total: int):
        self.total = total
        self.references: Counter[int] = Counter()
        self._untouched = 0  # this block and all after it were never given
        self._empty: dict[int, None] = {}
        self._kept: dict[int, None] = {}  # free, with contents that have a name; the least recently used first
        self._known: dict[Name, int] = {}
        self._names: dict[int, Name] = {}
        self._contents: dict[int, int] = {}  # the number that stands for a known block's contents, and all before them
        self._numbers = count()

    @property
    def free(self) -> int:
        return self.total - len(self.references)

    def take(self, count: int, after: int | None = None, room: int = 0) -> list[int] | None:
        """`count` blocks, those that follow block `after` if they can be had; None where there are not so many.

        room: blocks that will be wanted behind these, and are left empty while there are others.
        """
        if count > self.free:
            return None
        taken: list[int] = []
        while len(taken) < count and after is not None and self._is_empty(after + 1):
            after += 1
            taken.append(self._give(after))
        if count > len(taken):
            taken += [self._give(block) for block in self._found(count - len(taken), room)]
        return taken

    def _is_empty(self, block: int) -> bool:
        return block in self._empty or self._untouched <= block < self.total

    def _found(self, count: int, room: int) -> list[int]:
        """Free blocks, in order: never used ones together, else empty ones, else the least recently used."""
        if self._untouched + count <= self.total:
            start, self._untouched = self._untouched, min(self._untouched + count + room, self.total)
            self._empty |= dict.fromkeys(range(start, self._untouched))
            return list(range(start, start + count))
        found = [*range(self._untouched, self.total)]
        for store in (self._empty, self._kept):
            found += [block for block, _ in zip(store, range(count - len(found)))]
        return sorted(found)

    def _give(self, block: int) -> int:
        self._untouched = max(self._untouched, block + 1)
        self._empty.pop(block, None)
        self._kept.pop(block, None)
        self._forget(block)
        self.references[block] = 1
        return block

    def share(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            self._kept.pop(block, None)
            self.references[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One user less of each; the last blocks of a text are the first to be given again."""
        for block in reversed(blocks):
            self.references[block] -= 1
            if not self.references[block]:
                del self.references[block]
                (self._kept if block in self._names else self._empty)[block] = None

    def find(self, parent: Hashable, tokens: tuple[int, ...]) -> tuple[int, int] | None:
        """The block with these contents, and the number that stands for them; None where there is none."""
        block = self._known.get(Name(parent, tokens))
        return None if block is None else (block, self._contents[block])

    def record(self, block: int, parent: Hashable, tokens: tuple[int, ...]) -> int:
        """Notes what a block in use holds; the number of these contents, those of another block where it has them."""
        name = Name(parent, tokens)
        block = self._known.setdefault(name, block)
        if block not in self._names:
            self._names[block], self._contents[block] = name, next(self._numbers)
        return self._contents[block]

    def forget(self, blocks: Iterable[int]) -> None:
        """Their contents are not what was noted; they are in use."""
        for block in blocks:
            self._forget(block)

    def clear(self) -> None:
        """No contents are what was noted; blocks in use stay so."""
        self._empty |= self._kept
        self._kept, self._known, self._names, self._contents = {}, {}, {}, {}

    def _forget(self, block: int) -> None:
        if block in self._names:
            del self._known[self._names.pop(block)], self._contents[block]


class Table:
    """The blocks of one sequence, in order."""

    __slots__ = ("_parents", "blocks", "pool")

    def __init__(self, pool: BlockPool, root: Hashable = None):
        self.pool = pool
        self.blocks: list[int] = []
        self._parents: list[Hashable] = [root]  # of each block whose contents were noted, and of the next

    @property
    def recorded(self) -> int:
        """How many of the first blocks have contents that were noted."""
        return len(self._parents) - 1

    def grow(self, tokens: int, room: int = 0) -> bool:
        """Sees to it that so many tokens fit; False where there are not enough blocks. `room`: tokens still to come."""
        wanted = -(-tokens // BLOCK) - len(self.blocks)
        if wanted <= 0:
            return True
        after = self.blocks[-1] if self.blocks else None
        taken = self.pool.take(wanted, after, -(-room // BLOCK))
        self.blocks += taken or []
        return taken is not None

    def find(self, ids: Sequence[int], most: int) -> int:
        """Goes on with blocks that hold the next of `ids`, up to `most` tokens in all; how many there are now."""
        while self.recorded == len(self.blocks) and (end := (len(self.blocks) + 1) * BLOCK) <= most:
            found = self.pool.find(self._parents[-1], tuple(ids[end - BLOCK : end]))
            if found is None:
                break
            self.pool.share(found[:1])
            self.blocks.append(found[0])
            self._parents.append(found[1])
        return len(self.blocks) * BLOCK

    def record(self, ids: Sequence[int], tokens: int) -> None:
        """Notes the contents of all blocks that the first `tokens` of `ids` fill."""
        for place in range(self.recorded, tokens // BLOCK):
            part = tuple(ids[place * BLOCK : (place + 1) * BLOCK])
            self._parents.append(self.pool.record(self.blocks[place], self._parents[-1], part))

    def find_whole(self, ids: Sequence[int]) -> bool:
        """Takes the blocks that hold all of `ids`, a part of a block at the end included; nothing unless all do."""
        found = []
        for start in range(0, len(ids), BLOCK):
            held = self.pool.find(found[-1][1] if found else self._parents[0], tuple(ids[start : start + BLOCK]))
            if held is None:
                return False
            found.append(held)
        self.blocks = [block for block, _ in found]
        self._parents += [number for _, number in found]
        self.pool.share(self.blocks)
        return True

    def record_whole(self, ids: Sequence[int]) -> None:
        """Notes what all blocks hold, a part of a block at the end included: `ids` go no further."""
        self.record(ids, len(self.blocks) * BLOCK)

    def fork(self, tokens: int) -> tuple["Table", list[tuple[int, int]], int]:
        """A table for another sequence with the same first `tokens`: full blocks are shared, the last one is copied.

        Returns it with (source, target) of the block to copy, and how many tokens it holds: without a free block
        those of the last one are left to be computed again.
        """
        full = tokens // BLOCK
        table, copies = Table(self.pool), []
        table.blocks, table._parents = self.blocks[:full], self._parents[: full + 1]
        self.pool.share(table.blocks)
        if tokens % BLOCK and table.grow(tokens):
            copies = [(self.blocks[full], table.blocks[full])]
        return table, copies, tokens if copies else full * BLOCK

    def release(self, written: int | None = None) -> None:
        """Gives all blocks back. What was noted beyond the first `written` tokens (None: all) has not come to be."""
        if written is not None:
            self.pool.forget(self.blocks[written // BLOCK : self.recorded])
        self.pool.release(self.blocks)
        self.blocks = []
        del self._parents[1:]
