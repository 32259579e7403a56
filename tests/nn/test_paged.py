"""Attention over blocks against the formula, for each token by itself."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.nn import packets
from polytask.nn.packets import BLOCK, Cluster, Packet, Row
from polytask.nn.paged import KVCache
from polytask.nn.position import Alibi

KV_HEADS, GROUP, WIDTH, BLOCKS = 2, 2, 4, 40
CPU = torch.device("cpu")


def expected(q, keys, values, rows, window, cap, alibi, memory=False):
    """One query, one head and one key at a time: softmax of all that may be seen."""
    slopes = Alibi().slopes(KV_HEADS * GROUP)
    out, n = torch.zeros_like(q), 0
    for row in rows:
        table, end = (row.memory, row.read) if memory else (row.table, row.end)
        places = [table[p // BLOCK] * BLOCK + p % BLOCK for p in range(end)]
        for position in range(row.start, row.end):
            seen = [
                p for p in range(end)
                if memory or p < row.prefix or (p <= position and (window is None or position - p < window))
            ]  # fmt: skip
            for head in range(KV_HEADS * GROUP if seen else 0):
                k, v = (store[head // GROUP, [places[p] for p in seen]] for store in (keys, values))
                scores = k @ q[0, head, n] / math.sqrt(WIDTH)
                if alibi:
                    scores = scores + slopes[head] * torch.tensor([p - position for p in seen])
                if cap:
                    scores = cap * (scores / cap).tanh()
                out[0, head, n] = scores.softmax(0) @ v
            n += 1
    return out


@st.composite
def steps(draw):
    """Rows with scattered or neighbouring blocks, some of which they share."""
    free = list(range(BLOCKS))
    if draw(st.booleans()):
        free = draw(st.permutations(free))
    shared = [free.pop() for _ in range(draw(st.integers(0, 6)))]
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        common = shared[: draw(st.sampled_from([0, len(shared), len(shared)]))]
        start = max(0, len(common) * BLOCK + draw(st.integers(-9, 20)))
        count = draw(st.sampled_from([1, 1, 1, 3, 12]))
        own = max(0, -(-(start + count) // BLOCK) - len(common))
        table = [*common, *(free.pop() for _ in range(own))]
        read = draw(st.sampled_from([0, 5, 20]))
        memory = shared[:2] if len(shared) > 1 and draw(st.booleans()) else [free.pop(), free.pop()]
        rows.append(Row(table, start, count, draw(st.sampled_from([0, 0, min(start, 25)])), memory, read))
    return sorted(rows, key=lambda row: (row.count, row.table))


@settings(max_examples=60, deadline=None)
@given(steps(), st.sampled_from([None, None, 7]), st.sampled_from([None, 2.0]), st.booleans(), st.booleans())
def test_all_ways_of_reading_blocks_give_what_the_formula_gives(rows, window, cap, alibi, memory):
    generator = torch.Generator().manual_seed(len(rows))
    cache = KVCache(1, KV_HEADS, WIDTH, BLOCKS, dtype=torch.float64)
    for store in (cache.keys, cache.values):
        store.copy_(torch.randn(store.shape, generator=generator, dtype=torch.float64))
    count = sum(row.count for row in rows)
    q = torch.randn(1, KV_HEADS * GROUP, count, WIDTH, generator=generator, dtype=torch.float64)
    keys, values = cache.keys[0], cache.values[0]
    scorer = (lambda a, b: Alibi().scores(a, b, KV_HEADS * GROUP, WIDTH)) if alibi and not memory else None
    wanted = expected(q, keys, values, rows, None if memory else window, cap, scorer is not None, memory)
    window = None if memory else window
    for ways in (
        packets.packets(rows, window, memory, WIDTH, CPU),
        packets.packets(rows, window, memory, 10**6, CPU),  # nothing is small: products wherever there may be
        alone(Packet, rows, window, memory),
        [*side_by_side(rows, window, memory)],
    ):
        parts = [way.attend(q, keys, values, None, cap, scorer) for way in ways]
        torch.testing.assert_close(torch.cat(parts, dim=2), wanted, rtol=1e-9, atol=1e-9)


def alone(kind, rows, window, memory):
    start, made = 0, []
    for row in rows:
        made.append(kind([row], slice(start, start + row.count), window, memory, CPU))
        start += row.count
    return made


def side_by_side(rows, window, memory):
    """As a GPU does: several rows in one call, filled up to the longest."""
    start = 0
    for _, group in itertools.groupby(rows, key=lambda row: bool(row.read) or not memory):
        group = list(group)
        count = sum(row.count for row in group)
        yield Packet(group, slice(start, start + count), window, memory, CPU)
        start += count


def test_a_gpu_attends_to_rows_of_like_lengths_together():
    rows = [Row([n], 0, count) for n, count in enumerate((1, 1, 2, 9, 12, 16))] + [Row([*range(9, 80)], 0, 1100)] * 2
    made = packets.packets(rows, None, False, WIDTH, torch.device("meta"))
    assert [[row.count for row in packet.rows] for packet in made] == [[1, 1, 2], [9, 12, 16], [1100], [1100]]


def test_what_rows_share_is_read_once():
    rows = [Row([0, 1, 2, 3, 4, own], 85, 1) for own in (7, 8, 9)]
    (cluster,) = packets.packets(rows, None, False, WIDTH, CPU)
    assert isinstance(cluster, Cluster)
    assert cluster.shared == [slice(0, 80)]
    assert [own.pieces for own in cluster.rows] == [[slice(n * BLOCK, n * BLOCK + 6)] for n in (7, 8, 9)]


def test_what_was_never_written_is_never_read():
    """Memory is given as it comes; what it holds, numbers or not, must not matter."""
    cache = KVCache(1, 1, WIDTH, 8)
    cache.keys.fill_(torch.nan)
    cache.values.fill_(torch.nan)
    rows = [Row([1], 0, 2), Row([3, 5], 17, 2), Row([6], 4, 12)]
    for row in rows:
        for p in range(row.start):
            cache.keys[:, :, row.table[p // BLOCK] * BLOCK + p % BLOCK] = 1.0
            cache.values[:, :, row.table[p // BLOCK] * BLOCK + p % BLOCK] = 1.0
    new = torch.ones(1, 1, 16, WIDTH)
    assert cache.view(rows).attend(0, new, new, new).isfinite().all()
    packet = Packet(rows[:2], slice(0, 4), None, False, CPU)
    assert packet.attend(new, cache.keys[0], cache.values[0], None, None, None).isfinite().all()


@pytest.mark.parametrize(
    ("table", "first", "end", "wanted"),
    [
        ([3, 4, 5], 0, 40, [slice(48, 88)]),
        ([3, 4, 9, 1], 5, 64, [slice(53, 80), slice(144, 160), slice(16, 32)]),
        ([7], 3, 4, [slice(115, 116)]),
        ([2], 0, 0, []),
    ],
)
def test_neighbouring_blocks_are_one_slice(table, first, end, wanted):
    assert packets.runs(table, first, end) == wanted
