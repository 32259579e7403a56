"""Every way to give positions and to place norms: packed, cached, with and without the kernel for training on CPUs."""

import pytest
import torch

from polytask.models import cost
from polytask.models.config import TransformerConfig
from polytask.models.transformer import Transformer
from polytask.nn.attention import Attention
from polytask.nn.cache import Context
from polytask.nn.feedforward import MLP, GatedMLP
from polytask.nn.norm import LayerNorm, RMSNorm
from polytask.nn.paged import Row
from polytask.nn.part import from_plain, to_plain
from polytask.nn.position import (
    Alibi,
    Learned,
    LinearScaling,
    Llama3Scaling,
    RelativeBuckets,
    Rotary,
    Unpositioned,
    Yarn,
)
from tests.models.cached import cached

BASE = {
    "vocab_size": 61, "context_length": 24, "layers": 3, "dim": 24, "attention": Attention(3, bias=True),
    "feedforward": MLP(32, bias=True), "norm": LayerNorm(), "position": Rotary(),
}  # fmt: skip
PARTS = {
    "alibi": {"position": Alibi()},
    "alibi, scaled": {"position": Alibi(scaled=True)},
    "alibi, banded": {"position": Alibi(), "attention": (Attention(3), Attention(3, window=4))},
    "buckets": {"position": RelativeBuckets(8, 12)},
    "buckets of each layer": {"position": RelativeBuckets(8, 12, shared=False)},
    "partly rotary": {"position": Rotary(fraction=0.5, layout="interleaved")},
    "rotary, linear": {"position": Rotary(scaling=LinearScaling(2.0))},
    "rotary, llama 3": {"position": Rotary(scaling=Llama3Scaling(8.0, 8))},
    "rotary, yarn": {"position": Rotary(scaling=Yarn(4.0, 6))},
    "unpositioned": {"position": Unpositioned()},
    "learned, offset": {"position": Learned(offset=2)},
    "parallel": {"placement": "parallel"},
    "parallel with two norms": {"placement": "parallel_norms"},
    "sandwich": {"placement": "sandwich", "norm": RMSNorm(offset=1.0), "scale_embedding": True},
    "embedding norm": {"embedding_norm": LayerNorm()},
    "wide attention": {"attention": Attention(6, kv_heads=2, head_dim=8, bias=True, output_bias=False)},
    "caps": {"attention": Attention(3, kv_heads=1, cap=2.0, scale=0.7), "logit_cap": 3.0, "logit_scale": 0.5},
    "caps and a band": {"attention": (Attention(3, cap=2.0), Attention(3, cap=2.0, window=3)), "position": Alibi()},
    "output bias": {"output_bias": True, "tied": False},
    "feed-forward layers in turn": {"feedforward": (MLP(32), GatedMLP(16, activation="gelu_tanh"))},
}  # fmt: skip


def network(words: dict) -> Transformer:
    torch.manual_seed(0)
    made = Transformer(TransformerConfig(**(BASE | words))).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    return made


@pytest.fixture(params=list(PARTS))
def made(request):
    return network(PARTS[request.param])


def ids_of(rows: int, length: int) -> torch.Tensor:
    return torch.randint(61, (rows, length), generator=torch.Generator().manual_seed(1))


def places(ids: torch.Tensor) -> torch.Tensor:
    return torch.arange(ids.shape[1]).expand_as(ids)


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_training_on_a_cpu_gives_what_torchs_kernel_gives(made):
    ids = ids_of(2, 12)
    trained = made.logits(made(ids, Context(places(ids))))
    with torch.no_grad():
        same(trained, made.logits(made(ids, Context(places(ids)))))


def test_gradients_are_those_of_differences(made):
    ids, direction = ids_of(1, 7), torch.Generator().manual_seed(2)

    def value() -> torch.Tensor:
        return made.logits(made(ids, Context(places(ids)))).square().sum()

    value().backward()
    for name, parameter in made.named_parameters():
        step = torch.randn(parameter.shape, dtype=torch.float64, generator=direction) * 1e-6
        found = float((parameter.grad * step).sum())
        with torch.no_grad():
            parameter.add_(step)
            after = value()
            parameter.sub_(2 * step)
            before = value()
            parameter.add_(step)
        assert found == pytest.approx(float(after - before) / 2, rel=2e-4, abs=1e-9), name


def test_packed_documents_equal_documents_alone(made):
    ids = ids_of(1, 13)
    first, second = ids[:, :6], ids[:, 6:]
    positions = torch.cat([places(first), places(second)], 1)
    packed = made(ids, Context(positions, torch.tensor([[1] * 6 + [2] * 7])))
    same(packed, torch.cat([made(x, Context(places(x))) for x in (first, second)], 1))


@pytest.mark.parametrize("chunks", [[1] * 9, [4, 1, 4]])
def test_cache_equals_the_full_pass(made, chunks):
    ids = ids_of(2, 9)
    full = made(ids, Context(places(ids)))
    cache, parts, start = made.new_cache(blocks=3), [], 0
    for size in chunks:
        part = ids[:, start : start + size]
        parts.append(cached(made, cache, part, [Row([2], start, size), Row([0], start, size)]))
        start += size
    same(torch.cat(parts, 1), full)


def test_cache_rows_of_different_lengths(made):
    long, short = ids_of(2, 9).split(1)
    cache = made.new_cache(blocks=2)
    cached(made, cache, long[:, :6], [Row([0], 0, 6)])
    batch = torch.cat([long[:, 6:], short[:, :3]])
    rows = cached(made, cache, batch, [Row([0], 6, 3), Row([1], 0, 3)])
    same(rows[:1], made(long, Context(places(long)))[:, 6:])
    same(rows[1:], made(short[:, :3], Context(places(short[:, :3]))))


def test_left_padding_changes_nothing(made):
    ids, real = ids_of(1, 10), torch.tensor([[0] * 3 + [1] * 7])
    padded = made(ids, Context((real.cumsum(1) - 1).clamp(min=0), documents=real))
    same(padded[:, 3:], made(ids[:, 3:], Context(places(ids[:, 3:]))))


def test_the_formula_counts_what_is_built_and_plain_data_describes_it(made):
    assert cost.parameters(made.config) == sum(p.numel() for p in made.parameters())
    assert from_plain(to_plain(made.config)) == made.config


def test_encoder_decoder_with_buckets_is_the_same_cached():
    made = network({
        "position": RelativeBuckets(8, 12), "encoder_layers": 2, "attention": Attention(3, head_dim=5, scale=1.0),
        "norm": RMSNorm(), "feedforward": GatedMLP(16),
    })  # fmt: skip
    source, target = ids_of(2, 9), ids_of(2, 6)
    real = torch.ones(2, 9, dtype=torch.long)
    real[1, 6:] = 0
    memory = made.encode(source, Context(places(source), documents=real))
    full = made(target, Context(places(target), memory=memory))
    cache, sizes = made.new_cache(blocks=4), real.sum(1).tolist()
    made.remember(cache.view([Row([], 0, 0, 0, [2 + i], n) for i, n in enumerate(sizes)]), memory.states[real > 0])
    steps = [
        cached(made, cache, target[:, t : t + 1], [Row([i], t, 1, 0, [2 + i], n) for i, n in enumerate(sizes)])
        for t in range(6)
    ]
    same(torch.cat(steps, 1), full)
    assert cost.parameters(made.config) == sum(p.numel() for p in made.parameters())
