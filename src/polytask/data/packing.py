"""Documents fill rows of fixed length.

Task documents stay whole. Rows are chosen over the histogram of lengths rather than over documents (Krell et al. 2021,
arXiv:2107.02027), so that ten million documents take seconds. Pairs of an encoder and a decoder document share a row of
two budgets. Plain text is one stream that is cut every `length` predictions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_EXACT = 2048  # longer rows are filled by best fit alone, which leaves little of them
_POOL = 1024  # pairs among which those of a row are chosen
_LAST = 256  # of them, those among which its last two are


@dataclass(frozen=True)
class Rows:
    """Which documents each row holds: row r has `documents[starts[r]:starts[r + 1]]`."""

    starts: np.ndarray  # (R + 1,) int64
    documents: np.ndarray  # (N,) int64

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The documents of several rows in order and, for each, which of `rows` (by index) holds it."""
        places, owner = self.places(rows)
        return self.documents[places], owner

    def places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same with the places in `documents` instead of what is there."""
        first = self.starts[rows]
        counts = self.starts[rows + 1] - first
        return ranges(first, counts), np.repeat(np.arange(len(rows)), counts)


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start + 1, ... (`length` of them) for each pair, joined."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


def pack(lengths: np.ndarray, capacity: int) -> Rows:
    """Rows of at most `capacity` for documents of `lengths` (N,), each 1..capacity; documents of length 0 are dropped.

    Every document lies in exactly one row, and the fullest rows come first. Best fit is good where many documents share
    a row, the fullest row at a time where few do; the one that needs fewer rows is taken. Raises ValueError for a
    longer document: cut it first.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    if len(lengths) and int(lengths.max()) > capacity:
        raise ValueError(f"a document of {int(lengths.max())} does not fit a row of {capacity}")
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    counts = np.bincount(lengths[order], minlength=capacity + 1)
    ways = [_best_fit(counts, capacity)]
    if capacity <= _EXACT:
        ways += [_fullest(counts, capacity, abundant) for abundant in (False, True)]
    compositions = min(ways, key=lambda kinds: sum(rows for _, rows in kinds))
    compositions.sort(key=lambda kind: -sum(kind[0]))
    # Documents of one length are interchangeable: hand them out in order as the compositions ask for them.
    first = len(order) - np.cumsum(counts)  # where a length begins in the decreasing order
    taken = np.zeros(capacity + 1, dtype=np.int64)
    pieces, sizes = [], []
    for composition, rows in compositions:
        matrix = np.empty((rows, len(composition)), dtype=np.int64)
        for column, length in enumerate(composition):
            at = first[length] + taken[length]
            matrix[:, column] = order[at : at + rows]
            taken[length] += rows
        pieces.append(matrix.reshape(-1))
        sizes.append(np.full(rows, len(composition), dtype=np.int64))
    return _rows(pieces, sizes)


def _rows(pieces: Sequence[np.ndarray], sizes: Sequence[np.ndarray]) -> Rows:
    empty = np.zeros(0, dtype=np.int64)
    starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.concatenate([empty, *sizes]))])
    return Rows(starts, np.concatenate([empty, *pieces]))


def _best_fit(counts: np.ndarray, capacity: int) -> list[tuple[list[int], int]]:
    """Kinds of rows as (lengths in it, how many such rows), for `counts[length]` documents of each length."""
    space: list[list[tuple[list[int], int]]] = [[] for _ in range(capacity + 1)]  # by what is left of a row
    left = 0  # bit r is set where space[r] is not empty
    for length in np.flatnonzero(counts)[::-1].tolist():
        count = int(counts[length])
        while count:
            fitting = left >> length
            if not fitting:
                each = capacity // length
                full, rest = divmod(count, each)
                for size, rows in ((each, full), (rest, 1)):
                    if size and rows:
                        room = capacity - size * length
                        space[room].append(([length] * size, rows))
                        left |= 1 << room
                break
            room = length + (fitting & -fitting).bit_length() - 1  # the tightest row that still fits
            composition, rows = space[room].pop()
            used = min(rows, count)
            if used < rows:
                space[room].append((composition, rows - used))
            if not space[room]:
                left &= ~(1 << room)
            space[room - length].append(([*composition, length], used))
            left |= 1 << (room - length)
            count -= used
    return [kind for kinds in space for kind in kinds]


def _fullest(counts: np.ndarray, capacity: int, abundant: bool) -> list[tuple[list[int], int]]:
    """Kinds of rows, as `_best_fit` has them: around one document after another, the fullest row that there is.

    This is the search for the minimal slack of Gupta and Ho (1999), by dynamic programming over the lengths. It goes by
    the longest documents, or by those of which most are left: these few at a time, so that what is left stays as mixed
    as it was and the last rows find partners too.
    """
    counts, kinds = counts.copy(), []
    while counts.any():
        first = int(np.argmax(counts)) if abundant else int(np.flatnonzero(counts)[-1])
        counts[first] -= 1
        lengths = np.flatnonzero(counts[: capacity - first + 1])[::-1]
        if abundant:
            lengths = lengths[np.argsort(-counts[lengths], kind="stable")]
        others = _fill(lengths.tolist(), counts[lengths].tolist(), capacity - first)
        counts[first] += 1
        composition = [first, *others]
        used, times = np.unique(composition, return_counts=True)
        rows = int((counts[used] // times).min())
        rows = -(-rows // 4) if abundant else rows
        counts[used] -= times * rows
        kinds.append((composition, rows))
    return kinds


def _fill(lengths: list[int], counts: list[int], room: int) -> list[int]:
    """Lengths, at most `counts` of each, with the largest sum up to `room`; of several such the first in order."""
    within = (1 << (room + 1)) - 1
    sums = [1]  # bit n is set where n is a sum of the lengths from a place on
    for length, count in zip(reversed(lengths), reversed(counts)):
        reached, left, step = sums[-1], min(count, room // length), 1
        while left:  # 1, 2, 4, ... copies and the rest make any number of them
            copies = min(step, left)
            reached |= (reached << (length * copies)) & within
            left, step = left - copies, 2 * step
        sums.append(reached)
    sums.reverse()
    chosen, total = [], sums[0].bit_length() - 1
    for length, count, rest in zip(lengths, counts, sums[1:]):
        copies = min(count, total // length)
        while not rest >> (total - copies * length) & 1:
            copies -= 1
        chosen += [length] * copies
        total -= copies * length
    return chosen


def pack_pairs(encoder: np.ndarray, decoder: np.ndarray, encoder_capacity: int, decoder_capacity: int) -> Rows:
    """Rows for pairs with two budgets: the sums of `encoder` (N,) and of `decoder` (N,) lengths both fit.

    A row begins with the largest of the next thousand pairs, goes on with any, so that it gets a mixture of shapes, and
    ends with the two that together fill both budgets best. Raises ValueError for a pair that no row can hold.
    """
    sizes = np.stack([np.asarray(encoder), np.asarray(decoder)], axis=1).astype(np.int64)
    capacity = np.array([encoder_capacity, decoder_capacity], dtype=np.int64)
    if len(sizes) and (sizes.max(axis=0) > capacity).any():
        raise ValueError(f"a pair of {sizes.max(axis=0).tolist()} does not fit a row of {capacity.tolist()}")
    scale = (1 / capacity).astype(np.float32)
    order = np.flatnonzero(sizes.sum(axis=1) > 0)
    order = np.random.default_rng(0).permutation(order)
    last = 2 * sizes[order].mean(axis=0) if len(order) else capacity  # of less room than this, two take the rest
    rows: list[np.ndarray] = []
    pool, begin = order[:0], 0
    while len(pool) or begin < len(order):
        if len(pool) <= _POOL // 4:
            pool, begin = np.concatenate([pool, order[begin : begin + _POOL]]), begin + _POOL
        chosen = _fill_pairs(sizes[pool], capacity, scale, last)
        rows.append(pool[chosen])
        pool = np.delete(pool, chosen)
    return _rows(rows, [np.array([len(row) for row in rows], dtype=np.int64)])


def _fill_pairs(sizes: np.ndarray, capacity: np.ndarray, scale: np.ndarray, last: np.ndarray) -> list[int]:
    """Places of the pairs of `sizes` (N, 2) that fill a row."""
    encoder, decoder = sizes.T
    largest = int(np.maximum(encoder * scale[0], decoder * scale[1]).argmax())
    chosen, free = [largest], np.ones(len(sizes), dtype=bool)
    room = capacity - sizes[largest]
    free[largest] = False
    others = np.flatnonzero(free)
    while len(others) and (room >= last).all() and (sizes[others[0]] <= room).all():
        chosen.append(int(others[0]))
        free[others[0]] = False
        room = room - sizes[others[0]]
        others = others[1:]
    while len(fits := np.flatnonzero(free & (encoder <= room[0]) & (decoder <= room[1]))[:_LAST]):
        pair = _best_two(sizes[fits], room, scale)
        chosen += fits[pair].tolist()
        free[fits[pair]] = False
        room = room - sizes[fits[pair]].sum(axis=0)
    return chosen


def _best_two(sizes: np.ndarray, room: np.ndarray, scale: np.ndarray) -> list[int]:
    """Places of the one or two of `sizes` (N, 2), each of which fits, that leave the least of `room`."""
    left = room - sizes
    alone = left @ scale
    first = left[: _LAST // 8, None]
    encoder, decoder = first[..., 0] - sizes[:, 0], first[..., 1] - sizes[:, 1]  # what two leave: (N / 8, N)
    fits = (encoder >= 0) & (decoder >= 0)
    together = np.where(fits, encoder * scale[0] + decoder * scale[1], np.inf)
    np.fill_diagonal(together, np.inf)
    one, two = divmod(int(together.argmin()), len(sizes))
    return [one, two] if together[one, two] <= alone.min() else [int(alone.argmin())]


@dataclass(frozen=True)
class Stream:
    """Plain documents as one endless loop of predictions, cut into rows of `length`.

    A document of n ids has n - 1 predictions. Every row is full but the last of an epoch, and each epoch starts the
    cuts at another place, so that a text is not always seen through the same windows.
    """

    ends: np.ndarray  # (N + 1,) int64: predictions before each document, then the total
    length: int

    def __len__(self) -> int:
        return -(-int(self.ends[-1]) // self.length)

    def offset(self, draw: np.ndarray) -> np.ndarray:
        """Where an epoch's first row starts, from the epoch's random 64-bit number."""
        return (draw % np.uint64(self.length)).astype(np.int64) if len(self) > 1 else np.zeros(len(draw), np.int64)

    def of(self, rows: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Fragments of rows: (document, first prediction in it, number of predictions, index into `rows`)."""
        total = int(self.ends[-1])
        start = rows * self.length
        size = np.minimum(self.length, total - start)
        start = (start + offsets) % total
        # A row that runs over the end of the loop is two runs of predictions.
        head = np.minimum(size, total - start)
        starts = np.stack([start, np.zeros_like(start)], axis=1).reshape(-1)
        ends = starts + np.stack([head, size - head], axis=1).reshape(-1)
        owner = np.repeat(np.arange(len(rows)), 2)
        keep = ends > starts
        starts, ends, owner = starts[keep], ends[keep], owner[keep]
        first = np.searchsorted(self.ends, starts, side="right") - 1
        last = np.searchsorted(self.ends, ends, side="left")  # exclusive
        counts = last - first
        document = ranges(first, counts)
        begin = np.maximum(np.repeat(starts, counts), self.ends[document])
        end = np.minimum(np.repeat(ends, counts), self.ends[document + 1])
        some = end > begin
        return (
            document[some],
            (begin - self.ends[document])[some],
            (end - begin)[some],
            np.repeat(owner, counts)[some],
        )
