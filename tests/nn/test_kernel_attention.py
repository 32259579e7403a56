"""Attention of few tokens over blocks, by our kernel: against attention written out in float64."""

import pytest
import torch

from polytask.nn import masks
from polytask.nn.kernels.library import LOADER
from polytask.nn.paged import BLOCK, KVCache, Row
from polytask.nn.position import Rotary, Turn

LAYER = 1
# (heads, heads of keys, width): alone, grouped, wider than four vectors
HEADS = [(2, 2, 16), (8, 2, 32), (3, 1, 80)]


@pytest.fixture(autouse=True)
def called(monkeypatch):
    """How often the kernel was called, for as long as the test runs; a skip where there is none."""
    if (library := LOADER.wait()) is None:
        pytest.skip(LOADER.reason)
    calls, attend = [], library.attend
    monkeypatch.setattr(library, "attend", lambda call: (calls.append(call), attend(call)))
    return calls


def rows() -> list[Row]:
    """One token after 37, three after none, two after 15, in blocks that lie anywhere."""
    return [Row([7, 2, 9], 37, 1), Row([4], 0, 3), Row([1, 3], 15, 2)]


def exact(cache: KVCache, row: Row, q: torch.Tensor, window: int | None, scale: float) -> torch.Tensor:
    """(H, T, K) of one row, whose keys and values have been written."""
    index = torch.tensor([row.table[p // BLOCK] * BLOCK + p % BLOCK for p in range(row.end)])
    k, v = (store[LAYER][:, index].double() for store in (cache.keys, cache.values))
    k, v = (x.repeat_interleave(len(q) // len(x), dim=0) for x in (k, v))
    places = torch.arange(row.end)[None]
    scores = (q.double() @ k.mT * scale).masked_fill(~masks.causal(places[:, row.start :], places, window)[0], -1e30)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("sizes", HEADS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rotary", [None, Rotary(), Rotary(layout="interleaved", fraction=0.5)], ids=str)
@pytest.mark.parametrize("window", [None, 5])
@torch.no_grad()
def test_it_is_that_of_float64(called, sizes, dtype, rotary, window):
    torch.manual_seed(0)
    heads, kv_heads, width = sizes
    cache, given = KVCache(2, kv_heads, width, 10, dtype=dtype), rows()
    cache.keys.normal_()
    cache.values.normal_()
    count = sum(row.count for row in given)
    joined = torch.randn(1, count, (heads + 2 * kv_heads) * width).to(dtype)  # as the projection gives it
    q, k, v = joined.unflatten(-1, (-1, width)).transpose(1, 2).split((heads, kv_heads, kv_heads), dim=1)
    positions = torch.tensor([[p for row in given for p in range(row.start, row.end)]])
    turn = None if rotary is None else Turn(rotary, rotary.angles(positions, width))
    found = cache.view(given).attend(LAYER, q, k, v, turn=turn, window=window, scale=0.3)
    assert len(called) == 1
    start, bound = 0, 1e-5 if dtype == torch.float32 else 1e-2
    turned = (x if turn is None else turn(x) for x in (q, k))
    q, k = turned
    for row in given:
        part = slice(start, start + row.count)
        last = row.table[(row.end - 1) // BLOCK] * BLOCK + (row.end - 1) % BLOCK
        torch.testing.assert_close(cache.keys[LAYER][:, last], k[0, :, part.stop - 1], rtol=1e-2, atol=bound)
        assert torch.equal(cache.values[LAYER][:, last], v[0, :, part.stop - 1])
        wanted = exact(cache, row, q[0, :, part], window, 0.3)
        assert (found[0, :, part].double() - wanted).norm() < bound * wanted.norm()
        start = part.stop


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
    cache = KVCache(2, 2, 16, 10)
    cache.keys.normal_()
    cache.values.normal_()
    q = torch.randn(1, 2, 6, 16)
    assert cache.view(rows()).attend(LAYER, q, q, q, **words).shape == q.shape
    assert not called
