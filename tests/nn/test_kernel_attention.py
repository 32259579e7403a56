"""Attention over blocks by our kernel: against attention written out in float64."""

from collections.abc import Sequence

import pytest
import torch

from polytask.nn import masks
from polytask.nn.kernels.library import LOADER
from polytask.nn.paged import BLOCK, KVCache, Row
from polytask.nn.position import Rotary, Turn

pytestmark = pytest.mark.usefixtures("two_threads")
LAYER = 1
# (heads, heads of keys, width): alone, grouped, wider than four vectors
HEADS = [(2, 2, 16), (8, 2, 32), (3, 1, 80), (4, 2, 64), (2, 1, 128)]


@pytest.fixture(autouse=True)
def called(monkeypatch):
    """How often the kernel was called, for as long as the test runs; a skip where there is none."""
    if (library := LOADER.wait()) is None:
        pytest.skip(LOADER.reason)
    calls, attend = [], library.attend
    monkeypatch.setattr(library, "attend", lambda call: (calls.append(call), attend(call)))
    return calls


def rows() -> list[Row]:
    """One token after 37, three after none, two after 15, eighty after 20, in blocks that lie anywhere."""
    return [Row([7, 2, 9], 37, 1), Row([4], 0, 3), Row([1, 3], 15, 2), Row([11, 5, 17, 6, 12, 19, 8], 20, 80)]


def filled(kv_heads: int, width: int, dtype: torch.dtype, given: list[Row]) -> KVCache:
    """Keys and values of what came before; what nobody may read is no number."""
    cache = KVCache(2, kv_heads, width, 20, dtype=dtype)
    for store in (cache.keys, cache.values):
        store.fill_(torch.nan)
        for row in given:
            before = [place(row.table, p) for p in range(row.start)]
            store[:, :, before] = torch.randn(2, kv_heads, row.start, width).to(dtype)
    return cache


def place(table: Sequence[int], p: int) -> int:
    return table[p // BLOCK] * BLOCK + p % BLOCK


def exact(cache: KVCache, table: list[int], q: torch.Tensor, seen: torch.Tensor, scale: float) -> torch.Tensor:
    """What queries (H, T, K) take from the places that they see (T, S), whose keys and values have been written where
    any of them sees them."""
    index = torch.tensor([place(table, p) for p in seen.any(0).nonzero()[:, 0].tolist()])
    k, v = (store[LAYER][:, index].double() for store in (cache.keys, cache.values))
    k, v = (x.repeat_interleave(len(q) // len(x), dim=0) for x in (k, v))
    return (q.double() @ k.mT * scale).masked_fill(~seen[:, seen.any(0)], -1e30).softmax(-1) @ v


def new(given: list[Row], heads: int, kv_heads: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values of the rows' tokens, as a projection gives them."""
    joined = torch.randn(1, sum(row.count for row in given), (heads + 2 * kv_heads) * width).to(dtype)
    return joined.unflatten(-1, (-1, width)).transpose(1, 2).split((heads, kv_heads, kv_heads), dim=1)


@pytest.mark.parametrize("sizes", HEADS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rotary", [None, Rotary(), Rotary(layout="interleaved", fraction=0.5)], ids=str)
@pytest.mark.parametrize("window", [None, 5])
@torch.no_grad()
def test_it_is_that_of_float64(called, sizes, dtype, rotary, window):
    torch.manual_seed(0)
    heads, kv_heads, width = sizes
    given = rows()
    cache = filled(kv_heads, width, dtype, given)
    q, k, v = new(given, heads, kv_heads, width, dtype)
    positions = torch.tensor([[p for row in given for p in range(row.start, row.end)]])
    turn = None if rotary is None else Turn(rotary, rotary.angles(positions, width))
    found = cache.view(given).attend(LAYER, q, k, v, turn=turn, window=window, scale=0.3)
    assert len(called) == 1
    start, bound = 0, 1e-5 if dtype == torch.float32 else 1e-2
    q, k = (x if turn is None else turn(x) for x in (q, k))
    for row in given:
        part, places = slice(start, start + row.count), torch.arange(row.end)[None]
        last = place(row.table, row.end - 1)
        torch.testing.assert_close(cache.keys[LAYER][:, last], k[0, :, part.stop - 1], rtol=1e-2, atol=bound)
        assert torch.equal(cache.values[LAYER][:, last], v[0, :, part.stop - 1])
        wanted = exact(cache, row.table, q[0, :, part], masks.causal(places[:, row.start :], places, window)[0, 0], 0.3)
        assert (found[0, :, part].double() - wanted).norm() < bound * wanted.norm()
        start = part.stop


@pytest.mark.parametrize("sizes", [(5, 5, 48), (12, 4, 96), (12, 12, 64)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@torch.no_grad()
def test_threads_share_the_heads_of_single_tokens(sizes, dtype, window, threads):
    """What lies before a window, which begins within a block, is no number."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)  # `two_threads` sets them back
    (heads, kv_heads, width), bound = sizes, 1e-5 if dtype == torch.float32 else 1e-2
    given = [Row([7, 2, 9], 37, 1), Row([11, 5, 17], 45, 1), Row([4], 0, 1)]
    cache = filled(kv_heads, width, dtype, given)
    seen = [torch.arange(row.end)[None] >= row.end - (window or row.end) for row in given]
    for row, own in zip(given, seen):
        for store in (cache.keys, cache.values):
            store[:, :, [place(row.table, p) for p in (~own[0]).nonzero()[:, 0].tolist()]] = torch.nan
    q, k, v = new(given, heads, kv_heads, width, dtype)
    found = cache.view(given).attend(LAYER, q, k, v, window=window)
    for i, (row, own) in enumerate(zip(given, seen)):
        wanted = exact(cache, row.table, q[0, :, i : i + 1], own, width**-0.5)
        assert (found[0, :, i : i + 1].double() - wanted).norm() < bound * wanted.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", HEADS, ids=str)
@torch.no_grad()
def test_a_prefix_is_seen_by_all_of_its_tokens(called, sizes, dtype):
    torch.manual_seed(0)
    heads, kv_heads, width = sizes
    row = Row([3, 0, 2, 5], 10, 50, prefix=40)
    cache = filled(kv_heads, width, dtype, [row])
    q, k, v = new([row], heads, kv_heads, width, dtype)
    found = cache.view([row]).attend(LAYER, q, k, v)
    assert len(called) == 1
    places = torch.arange(row.end)
    seen = (places <= places[10:, None]) | (places < 40)
    wanted = exact(cache, list(row.table), q[0], seen, width**-0.5)
    assert float((found[0].double() - wanted).norm() / wanted.norm()) < (1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", HEADS, ids=str)
@torch.no_grad()
def test_what_an_encoder_read_is_seen_by_all(called, sizes, dtype):
    torch.manual_seed(0)
    heads, kv_heads, width = sizes
    given = [Row([0], 5, 1, memory=[3, 1], read=20), Row([2], 0, 9, memory=[4, 7, 6, 5, 8], read=70)]
    cache = KVCache(2, kv_heads, width, 20, dtype=dtype)
    for store in (cache.keys, cache.values):
        store.fill_(torch.nan)
    view = cache.view(given)
    view.write_memory(LAYER, *torch.randn(2, 1, kv_heads, 90, width).to(dtype))
    q = torch.randn(1, heads, 10, width).to(dtype)
    found = view.attend_memory(LAYER, q)
    assert len(called) == 1
    for row, part in zip(given, (slice(0, 1), slice(1, 10))):
        seen = torch.ones(row.count, row.read, dtype=torch.bool)
        wanted = exact(cache, list(row.memory), q[0, :, part], seen, width**-0.5)
        error = float((found[0, :, part].double() - wanted).norm() / wanted.norm())
        assert error < (1e-5 if dtype == torch.float32 else 1e-2)


@torch.no_grad()
def test_scores_far_apart_do_not_overflow():
    cache = KVCache(2, 1, 16, 1)
    k = torch.zeros(1, 1, 4, 16)
    k[0, 0, :, 0] = torch.tensor([-1e4, 3e4, 2e4, 1e4])
    v = torch.arange(4.0)[None, None, :, None].expand(1, 1, 4, 16).contiguous()
    q = torch.ones(1, 1, 4, 16)
    found = cache.view([Row([0], 0, 4)]).attend(LAYER, q, k, v)
    torch.testing.assert_close(found[0, 0, :, 0], torch.tensor([0.0, 1.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    "words", [{"cap": 5.0}, {"scorer": lambda q, k: torch.zeros(len(q), 2, q.shape[1], k.shape[1])}]
)
@torch.no_grad()
def test_torch_takes_what_bends_or_adds_to_scores(called, words):
    cache = KVCache(2, 2, 16, 20)
    cache.keys.normal_()
    cache.values.normal_()
    q = torch.randn(1, 2, sum(row.count for row in rows()), 16)
    assert cache.view(rows()).attend(LAYER, q, q, q, **words).shape == q.shape
    assert not called
