"""Positions by hand-computed cases, and against transformers' own functions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polytask.nn.position import Alibi, Grid, GridEmbedding, LinearScaling, Llama3Scaling, RelativeBuckets, Rotary, Yarn


def test_alibi_slopes_of_a_power_of_two():
    assert Alibi().slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    assert Alibi().slopes(16)[:2].tolist() == pytest.approx([2**-0.5, 0.5], rel=1e-15)


def test_alibi_slopes_of_bloom_176b():
    """112 heads: the 64 of the next lower power of two, then every other one of the 128 of the next higher."""
    slopes = Alibi().slopes(112)
    assert len(slopes) == 112
    for index, expected in ((0, 0.9170), (63, 0.00390625), (64, 0.9576), (65, 0.8781), (111, 0.016317)):
        assert slopes[index].item() == pytest.approx(expected, rel=1e-4)


def test_alibi_falls_with_distance():
    scores = Alibi().scores(torch.tensor([[5]]), torch.arange(6)[None], heads=4, head_dim=8)
    assert scores.shape == (1, 4, 1, 6)
    assert scores[0, 0, 0].tolist() == [-1.25, -1.0, -0.75, -0.5, -0.25, 0.0]
    assert scores[0, 1, 0].tolist() == [x / 16 for x in (-5, -4, -3, -2, -1, 0)]


@pytest.mark.parametrize(("layout", "pairs"), [("half", [(0, 2), (1, 3)]), ("interleaved", [(0, 1), (2, 3)])])
def test_rotary_turns_pairs_by_their_angles(layout, pairs):
    """At position 3 of a head of 4 channels: the first pair by 3, the second by 3/100 radians."""
    rotary, x = Rotary(layout=layout), [1.0, 2.0, 3.0, 4.0]
    given = torch.tensor(x, dtype=torch.float64).view(1, 1, 1, 4)
    turned = rotary.rotate(given, rotary.angles(torch.tensor([[3]]), 4)).flatten()
    for (a, b), angle in zip(pairs, (3.0, 0.03)):
        assert turned[a].item() == pytest.approx(x[a] * math.cos(angle) - x[b] * math.sin(angle), abs=1e-6)
        assert turned[b].item() == pytest.approx(x[b] * math.cos(angle) + x[a] * math.sin(angle), abs=1e-6)


def test_rotary_turns_the_first_share_of_the_channels():
    rotary, x = Rotary(fraction=0.5), torch.arange(1.0, 9.0).view(1, 1, 1, 8)
    turned = rotary.rotate(x, rotary.angles(torch.tensor([[2]]), 8))
    assert torch.equal(turned[..., 4:], x[..., 4:])
    expected = Rotary().rotate(x[..., :4], Rotary().angles(torch.tensor([[2]]), 4))
    assert torch.equal(turned[..., :4], expected)


# 32 buckets up to 128. Seen from one side 16 hold a distance each, then 16 + floor(16 log(d/16) / log(8)); from both
# sides 8, then 8 + floor(8 log(d/8) / log(16)), and keys after the query 16 higher.
CAUSAL = {3: 0, 0: 0, -1: 1, -15: 15, -16: 16, -18: 16, -19: 17, -64: 26, -127: 31, -128: 31, -1000: 31}
TWO_SIDED = {0: 0, -1: 1, 1: 17, -7: 7, -8: 8, -11: 8, -12: 9, -128: 15, 8: 24, 12: 25, 127: 31, 1000: 31}


@pytest.mark.parametrize(("causal", "expected"), [(True, CAUSAL), (False, TWO_SIDED)])
def test_buckets_of_distances(causal, expected):
    found = RelativeBuckets().bucket(torch.tensor(list(expected)), causal)
    assert dict(zip(expected, found.tolist())) == expected


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (8, 20)])
def test_buckets_are_those_of_t5(causal, buckets, furthest):
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-200, 201)
    expected = T5Attention._relative_position_bucket(distance, not causal, buckets, furthest)
    assert torch.equal(RelativeBuckets(buckets, furthest).bucket(distance, causal), expected)


SCALINGS = {
    "linear": (LinearScaling(4.0), {"rope_type": "linear", "factor": 4.0}),
    "llama 3": (
        Llama3Scaling(8.0, 64, low=1.0, high=4.0),
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 64},
    ),
    "yarn": (Yarn(4.0, 256), {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}),
    "yarn of other turns": (
        Yarn(16.0, 512, fast=20.0, slow=2.0, size=1.25, truncate=False),
        {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 512, "beta_fast": 20.0,
         "beta_slow": 2.0, "attention_factor": 1.25, "truncate": False},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
def test_longer_contexts_are_scaled_as_transformers_does(name, theta):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling, words = SCALINGS[name]
    config = LlamaConfig(
        hidden_size=128, num_attention_heads=2, max_position_embeddings=2048,
        rope_parameters={"rope_theta": theta, **words},
    )  # fmt: skip
    expected, size = ROPE_INIT_FUNCTIONS[words["rope_type"]](config, torch.device("cpu"))
    plain = 1.0 / theta ** (torch.arange(0, 64, 2).float() / 64)
    found, found_size = scaling.scale(plain, theta)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert found_size == pytest.approx(size)
    assert not torch.allclose(found, plain), "a scaling that changes nothing would be no test"
    positions, rotary = torch.tensor([[0, 1, 700]]), Rotary(theta=theta, scaling=scaling)
    pairs = torch.cat([torch.ones(3, 32), torch.zeros(3, 32)], 1)[None, None]  # each of them (1, 0)
    turned, angle = rotary.rotate(pairs, rotary.angles(positions, 64))[0, 0], positions[0, :, None] * expected
    torch.testing.assert_close(turned, torch.cat([angle.cos(), angle.sin()], 1) * size, rtol=1e-4, atol=1e-4)


def test_codes_are_counted_within_their_picture():
    """Of 2 x 3 codes from id 10 on: after texts, one picture directly after another, cut by the next document."""
    ids = [1, 10, 11, 12, 13, 14, 15, 2, 10, 10, 10, 10, 10, 10, 10, 11, 12, 10, 3]
    positions = [*range(17), 0, 1]
    wanted = [-1, 0, 1, 2, 3, 4, 5, -1, 0, 1, 2, 3, 4, 5, 0, 1, 2, 0, -1]
    assert Grid(10, 2, 3).places(torch.tensor([ids]), torch.tensor([positions])).tolist() == [wanted]


@given(st.lists(st.integers(0, 19), min_size=1, max_size=60), st.data())
def test_places_are_the_same_from_wherever_they_are_counted(ids, data):
    grid, start = Grid(10, 2, 2), data.draw(st.integers(0, len(ids)))
    whole = grid.places(torch.tensor([ids]), torch.arange(len(ids))[None])[0].tolist()
    assert grid.places_from(ids, 0) == whole
    assert grid.places_from(ids, start) == whole[start:]


def test_a_place_has_the_vectors_of_its_row_and_column():
    table = GridEmbedding(Grid(10, 2, 3), 4)
    with torch.no_grad():
        table.weight.copy_(torch.arange(20.0).view(5, 4))
    rows, columns = table.weight[:2], table.weight[2:]
    found = table(torch.tensor([[-1, 0, 2, 4]]))[0]
    assert torch.equal(
        found, torch.stack([0 * rows[0], rows[0] + columns[0], rows[0] + columns[2], rows[1] + columns[1]])
    )
