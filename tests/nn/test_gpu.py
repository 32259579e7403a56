"""What runs on a GPU alone, against torch's plain operations on the same numbers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from polytask.data.batch import Batch
from polytask.inference import steps
from polytask.models.catalogue import build_config
from polytask.models.heads import Head, cross_entropy
from polytask.models.transformer import Transformer
from polytask.nn.attention import Attention
from polytask.nn.cache import Context
from polytask.nn.feedforward import MLP, GatedMLP
from polytask.nn.fixed import FixedView
from polytask.nn.kernels import gpu
from polytask.nn.kernels.library import NO_NORM, Norm
from polytask.nn.paged import BLOCK, KVCache
from polytask.nn.position import Rotary, Turn

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
TYPES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def off(found: Tensor, wanted: Tensor) -> float:
    """The error as a share of what it should be."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def packed(documents: list[list[int]]) -> Batch:
    rows = torch.tensor(documents)
    zeros = torch.zeros_like(rows)
    return Batch(zeros, zeros, rows, zeros, zeros.float(), zeros)


def test_starts_are_where_documents_begin():
    starts = packed([[1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1]]).located().starts
    assert starts[:5].tolist() == [0, 2, 4, 6, 12]
    assert len(starts) == 64
    assert set(starts[5:].tolist()) == {12}


def test_whole_rows_have_no_more_starts_than_rows():
    batch = packed([[1] * 4, [1] * 4]).located()
    assert batch.starts.tolist() == [0, 4, 8]
    context = Context(batch.positions, batch.documents, starts=batch.starts)
    assert context.self_mask(None) == (None, True)


def test_tokens_seen_from_both_sides_have_no_starts():
    batch = packed([[1, 1, 2, 2]])
    batch.prefix = torch.tensor([[True, False, False, False]])
    assert batch.located().starts is None


@needs_gpu
@pytest.mark.parametrize("attention", [Attention(4, head_dim=16), Attention(4, 2, head_dim=16, window=5)])
@pytest.mark.parametrize("documents", ["packed", "whole"])
def test_packed_documents_on_cuda(attention, documents):
    config = build_config("gpt3", layers=2, dim=64, heads=4, vocab_size=99, context_length=128, attention=attention)
    built = Transformer(config).initialize(0).cuda()
    rows = torch.ones(3, 128, dtype=torch.int64)
    if documents == "packed":
        rows[0, 40:], rows[1, 7:], rows[1, 9:], rows[2, 100:] = 2, 2, 3, 0
    ids = torch.randint(99, rows.shape).cuda()
    batch = packed(rows.tolist()).to("cuda")
    assert batch.starts is not None
    positions = torch.arange(128, device="cuda").expand_as(ids)
    found = []
    for starts in (batch.starts, None):
        built.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            hidden = built(ids, Context(positions, batch.documents, starts=starts))
        (hidden.float().square() * torch.linspace(0, 1, 64, device="cuda")).sum().backward()
        found.append((hidden.detach(), built.embedding.weight.grad.clone()))
    for one, other in zip(*found, strict=True):
        assert off(one, other) < 5e-2


@needs_gpu
@pytest.mark.parametrize(("smoothing", "z_loss", "cap"), [(0.0, 0.0, None), (0.1, 1e-3, 3.0)])
@pytest.mark.parametrize("dtype", list(TYPES))
def test_the_chunked_loss_on_cuda(smoothing, z_loss, cap, dtype):
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(3, 50, 64), torch.randn(1001, 64) * 0.2, torch.randn(1001)
    targets, weights = torch.randint(1001, (3, 50)), torch.rand(3, 50)
    weights[0, 3:6] = 0
    found = []
    for device in ("cpu", "cuda"):
        learnt = [x.to(device).double() if device == "cpu" else x.to(device) for x in (hidden, weight, bias)]
        learnt = [x.detach().requires_grad_() for x in learnt]
        with torch.autocast("cuda", dtype, enabled=device == "cuda" and dtype != torch.float32):
            total, losses = cross_entropy(
                learnt[0], Head(learnt[1], learnt[2], cap=cap), targets.to(device), weights.to(device),
                label_smoothing=smoothing, z_loss=z_loss, chunk=64,
            )  # fmt: skip
        total.backward()
        found.append([total.detach().cpu(), losses.cpu(), *(x.grad.cpu() for x in learnt)])
    for wanted, mine in zip(*found, strict=True):
        assert off(mine, wanted) < TYPES[dtype]


@needs_gpu
@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize(("width", "out"), [(768, 2304), (768, 50257), (3072, 768), (96, 33), (5632, 2048)])
def test_products_of_one_row_on_cuda(width, out, dtype):
    torch.manual_seed(0)
    made = [torch.randn(1, 1, width), torch.randn(out, width) * 0.05, torch.randn(out), torch.rand(width)]
    x, weight, bias, scale = (one.to("cuda", dtype) for one in made)
    wide = [one.double() for one in (x, weight, bias, scale)]
    with torch.inference_mode():
        cases = {
            "plain": (None, NO_NORM, wide[0]),
            "layer": (bias, Norm(1, scale, scale, 1e-5), F.layer_norm(wide[0], (width,), wide[3], wide[3], 1e-5)),
            "root": (None, Norm(2, scale, None, 1e-6, 1.0), F.rms_norm(wide[0], (width,), wide[3] + 1, 1e-6)),
        }
        for name, (shift, norm, normed) in cases.items():
            wanted = F.linear(normed, wide[1], None if shift is None else wide[2])
            for onto in (None, bias):
                found = gpu.product(x, weight, shift, norm, onto=onto)
                assert found is not None
                assert off(found, wanted if onto is None else wanted + wide[2]) < TYPES[dtype], name


@needs_gpu
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu", "relu_squared"])
@pytest.mark.parametrize("part", [MLP, GatedMLP])
@pytest.mark.parametrize("dtype", list(TYPES))
def test_activations_within_products_on_cuda(activation, part, dtype):
    torch.manual_seed(0)
    layer = part(768, activation).build(256).cuda()
    x = torch.randn(1, 1, 256, device="cuda")
    with torch.no_grad():
        double = copy.deepcopy(layer).double()(x.double())
        assert off(layer.to(dtype)(x.to(dtype)), double) < TYPES[dtype]


@needs_gpu
@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "window", "rotary"),
    [
        (12, 12, 64, None, None), (32, 4, 64, None, Rotary()), (8, 2, 128, 50, Rotary(layout="interleaved")),
        (6, 6, 16, 5, Rotary(fraction=0.25)),
    ],
)  # fmt: skip
def test_attention_over_blocks_on_cuda(heads, kv_heads, width, window, rotary, dtype):
    torch.manual_seed(0)
    places = torch.tensor([0, 15, 16, 130, 700, 1023])
    rows, blocks = len(places), 1024 // BLOCK
    caches = [KVCache(1, kv_heads, width, rows * blocks, dtype=dtype, device="cuda") for _ in range(2)]
    for name in ("keys", "values"):
        numbers = torch.randn(getattr(caches[0], name).shape, device="cuda").to(dtype)
        for cache in caches:
            getattr(cache, name).copy_(numbers)
    tables = torch.randperm(rows * blocks).view(rows, blocks)
    state = torch.cat([places[:, None], tables], 1).cuda()
    parts = [heads * width, kv_heads * width, kv_heads * width]
    qkv = torch.randn(1, rows, sum(parts), device="cuda").to(dtype).split(parts, dim=-1)
    q, k, v = (x.unflatten(-1, (-1, width)).transpose(1, 2) for x in qkv)
    turn = None if rotary is None else Turn(rotary, rotary.angles(state[:, 0][None], width))
    with torch.inference_mode():
        view, other = (FixedView(cache, state[:, 1:], state[:, 0]) for cache in caches)
        assert gpu.takes(q)
        mine = view.attend(0, q, k, v, turn=turn, window=window)
        q, k = (q, k) if turn is None else (turn(q), turn(k))
        wanted = other._by_torch(caches[1].keys[0], caches[1].values[0], q, k, v, window, None, None, None, None)
    assert off(mine, wanted) < TYPES[dtype]
    assert off(caches[0].keys, caches[1].keys) < 1e-2
    torch.testing.assert_close(caches[0].values, caches[1].values, rtol=0, atol=0)


@needs_gpu
def test_the_likeliest_id_on_cuda():
    torch.manual_seed(0)
    logits, kinds = torch.randn(3, 50257) * 3, torch.zeros(50257, dtype=torch.int8)
    kinds[logits[0].argmax()], kinds[logits[1].argmax()] = steps.END, steps.NEVER
    logits[2, 7] = logits[2].max() + 1
    logits[2, 50000] = logits[2, 7] - 1e-3
    state = torch.tensor([[0, 4, 9, 4, 1], [0, 5, 0, 3, 1], [0, 6, 0, 6, 1]])
    records = torch.zeros(4, steps.STEPS, 3)
    mine = [x.cuda() for x in (logits, kinds, state, records)]
    with torch.inference_mode():
        assert gpu.choose(*mine, steps.TIE)
    steps.choose(logits, kinds, state, records)
    assert mine[2].tolist() == state.tolist()
    torch.testing.assert_close(mine[3].cpu(), records)
