"""The arrays of every objective, for single documents."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.convert import corrupt, corrupted_lengths, next_token, prefix, sentinel_ids, seq2seq, span_corruption
from polytask.tasks.segment import Text
from polytask.tokenizers import encode
from tests.data.documents import BYTES

SENTINELS = sentinel_ids(BYTES.special)


def written(ids) -> str:
    return BYTES.decode(ids, special=True)


def document(*segments):
    return encode(segments, BYTES)


def test_next_token_predicts_each_id_from_the_one_before():
    converted = next_token(document(Text("q"), Text("ab", target=True)))
    assert written(converted.ids) == "<|task|>q<|answer|>ab"
    assert written(converted.targets) == "q<|answer|>ab<|end|>"
    assert converted.weights.tolist() == [0, 0, 1, 1, 1]


def test_prefix_is_all_before_the_first_answer():
    first = document(Text("qq"), Text("a", target=True), Text("r"), Text("b", target=True))
    converted = prefix(first)
    assert written(converted.ids[: converted.prefix]) == "<|task|>qq<|answer|>"
    assert written(converted.targets[converted.weights > 0]) == "a<|end|>b<|end|>"


def test_nothing_inside_of_a_longer_prefix_is_predicted():
    converted = prefix(document(Text("abcdef", target=True)), given=4)
    assert written(converted.ids[:4]) == "<|text|>abc"
    assert written(converted.targets[converted.weights > 0]) == "def<|end|>"


def test_seq2seq_gives_the_encoder_what_is_given():
    converted = seq2seq(document(Text("q"), Text("ab", target=True)), BYTES)
    assert converted.encoder_ids is not None
    assert written(converted.encoder_ids) == "<|task|>q<|end|>"
    assert written(converted.ids) == "<|answer|>ab"
    assert written(converted.targets) == "ab<|end|>"
    assert converted.weights.tolist() == [1, 1, 1]


def restore(visible, restored):
    """What T5's format means, read back: each sentinel is replaced by what follows it in the target."""
    spans, current = {}, None
    for i in restored.tolist():
        if i in SENTINELS:
            current = spans.setdefault(i, [])
        else:
            assert current is not None
            current.append(i)
    return [j for i in visible.tolist() for j in (spans[i] if i in SENTINELS else [i])], spans


@settings(max_examples=200, deadline=None)
@given(length=st.integers(1, 900), seed=st.integers(0, 2**32))
def test_corruption_can_be_undone(length, seed):
    ids = np.random.default_rng(seed).integers(len(BYTES.special), BYTES.vocab_size, length).astype(np.int32)
    visible, restored = corrupt(ids, SENTINELS, np.random.default_rng(seed))
    again, spans = restore(visible, restored)
    assert again == ids.tolist()
    assert list(spans) == SENTINELS[: len(spans)].tolist()  # in order
    assert all(spans.values())  # none is empty
    assert (len(visible), len(restored)) == corrupted_lengths(length, len(SENTINELS))
    assert len(restored) - len(spans) == max(1, round(0.15 * length))
    used = np.isin(visible, SENTINELS)
    assert not (used[1:] & used[:-1]).any()  # no two spans touch


def test_spans_are_three_tokens_long_on_average_and_anywhere():
    ids = np.arange(100, 500, dtype=np.int32)
    hidden = np.zeros(400)
    for seed in range(300):
        visible, restored = corrupt(ids, SENTINELS, np.random.default_rng(seed))
        spans = np.isin(restored, SENTINELS).sum()
        assert spans == 20  # 60 hidden tokens
        hidden += ~np.isin(ids, visible)
    assert abs(hidden.mean() / 300 - 0.15) < 0.001
    assert hidden.min() > 15  # every place is hidden some time


def test_a_short_text_may_hide_any_part_of_it():
    ids = np.arange(100, 110, dtype=np.int32)
    hidden = {tuple(corrupt(ids, SENTINELS, np.random.default_rng(seed))[1][1:].tolist()) for seed in range(200)}
    assert hidden == {(i, i + 1) for i in range(100, 109)}


def test_corruption_depends_on_the_generator_alone():
    ids = np.arange(100, 300, dtype=np.int32)
    one, two, other = (corrupt(ids, SENTINELS, np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert one.tolist() != other.tolist()


@pytest.mark.parametrize("encoder", [False, True])
def test_span_corruption_layout(encoder):
    ids = np.array(BYTES.encode("hello world, this is a test"), dtype=np.int32)
    converted = span_corruption(ids, BYTES.special, np.random.default_rng(0), encoder)
    visible, restored = (written(part) for part in corrupt(ids, SENTINELS, np.random.default_rng(0)))
    assert written(converted.targets[converted.weights > 0]) == restored + "<|end|>"
    np.testing.assert_array_equal(converted.ids[1:], converted.targets[:-1])
    if encoder:
        assert converted.encoder_ids is not None
        assert written(converted.encoder_ids) == visible + "<|end|>"
        assert written(converted.ids) == "<|answer|>" + restored
    else:
        assert converted.encoder_ids is None
        assert written(converted.ids) == f"<|task|>{visible}<|answer|>{restored}"
        assert written(converted.ids[: converted.prefix]) == f"<|task|>{visible}<|answer|>"
