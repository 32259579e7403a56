"""How segments are laid out, which ids count in the loss, and where an encoder-decoder splits them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.errors import TokenizerError
from polytask.tasks.segment import Text
from polytask.tokenizers import (
    TextTokenizer,
    continuation_ids,
    encode,
    encode_documents,
    encode_many,
    prompt_ids,
    split_prompt,
    split_source,
)

BYTES = TextTokenizer.bytes()


def written(ids) -> str:
    return BYTES.decode(ids, special=True)


def learnt(encoded) -> str:
    return written(encoded.ids[encoded.weights > 0])


@pytest.mark.parametrize(
    ("segments", "layout", "predicted"),
    [
        ([Text("abc", target=True)], "<|text|>abc<|end|>", "abc<|end|>"),
        ([Text("q"), Text("a", target=True)], "<|task|>q<|answer|>a<|end|>", "a<|end|>"),
        ([Text("q"), Text("r"), Text("a", target=True)], "<|task|>qr<|answer|>a<|end|>", "a<|end|>"),
        (
            [Text("q"), Text("a", target=True), Text("r"), Text("b", target=True)],
            "<|task|>q<|answer|>a<|end|><|task|>r<|answer|>b<|end|>",
            "a<|end|>b<|end|>",
        ),
        (
            [Text("s", role="system"), Text("u", role="user"), Text("a", target=True, role="assistant")],
            "<|system|>s<|user|>u<|assistant|>a<|end|>",
            "a<|end|>",
        ),
        (
            [
                Text("u", role="user"),
                Text("a", role="assistant"),
                Text("v", role="user"),
                Text("b", target=True, role="assistant"),
            ],
            "<|user|>u<|assistant|>a<|end|><|user|>v<|assistant|>b<|end|>",
            "b<|end|>",
        ),
        ([Text("q")], "<|task|>q", ""),
        ([Text(""), Text("", target=True)], "<|task|><|answer|><|end|>", "<|end|>"),
    ],
)
def test_layout_and_weights(segments, layout, predicted):
    encoded = encode(segments, BYTES)
    assert written(encoded.ids) == layout
    assert learnt(encoded) == predicted
    assert encoded.ids.dtype == np.int32
    assert encoded.weights.dtype == np.float32
    assert len(encoded.ids) == len(encoded.weights) == len(encoded)


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([], "<|text|>"),
        ([Text("Once", target=True)], "<|text|>Once"),
        ([Text("q")], "<|task|>q<|answer|>"),
        ([Text("q"), Text("a", target=True), Text("r")], "<|task|>q<|answer|>a<|end|><|task|>r<|answer|>"),
        ([Text("u", role="user")], "<|user|>u<|assistant|>"),
    ],
)
def test_prompt(segments, expected):
    assert written(prompt_ids(segments, BYTES)) == expected


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
DOCUMENT = st.one_of(
    TEXT.map(lambda text: [Text(text, target=True)]),
    st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3).map(
        lambda pairs: [Text(text, target=bool(i)) for pair in pairs for i, text in enumerate(pair)]
    ),
    st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3).map(
        lambda pairs: [
            Text(text, target=bool(i), role="assistant" if i else "user")
            for pair in pairs
            for i, text in enumerate(pair)
        ]
    ),
)


@settings(max_examples=150, deadline=None)
@given(document=DOCUMENT)
def test_prompt_and_continuation_make_the_training_document(document):
    whole = encode(document, BYTES)
    prompt = document[:-1]
    assert prompt_ids(prompt, BYTES) + continuation_ids(document[-1:], BYTES) == whole.ids.tolist()


@settings(max_examples=150, deadline=None)
@given(document=DOCUMENT)
def test_encoder_and_decoder_hold_the_document_once(document):
    whole = encode(document, BYTES)
    source, target = split_source(whole, BYTES)
    end = BYTES.special["<|end|>"]
    assert source[-1] == end
    assert [*source[:-1], *target.ids] == whole.ids.tolist()
    assert target.weights[0] == 0
    assert (target.weights[1:] == 1).all()
    encoder, decoder = split_prompt(document[:-1], BYTES)
    assert encoder == source.tolist()
    assert decoder == target.ids[:1].tolist()


@settings(max_examples=60, deadline=None)
@given(documents=st.lists(DOCUMENT, max_size=6))
def test_many_documents_are_each_as_alone(documents):
    together = encode_many(documents, BYTES)
    joined = encode_documents(documents, BYTES)
    assert len(together) == len(documents)
    begin = 0
    for index, document in enumerate(documents):
        alone = encode(document, BYTES)
        np.testing.assert_array_equal(together[index].ids, alone.ids)
        np.testing.assert_array_equal(together[index].weights, alone.weights)
        assert joined.lengths[index] == len(alone)
        assert joined.firsts[index] == np.flatnonzero(alone.weights)[0]
        source, _ = split_source(alone, BYTES)
        assert joined.openers[index] == len(source) - 1
        np.testing.assert_array_equal(joined.ids[begin : begin + len(alone)], alone.ids)
        begin += len(alone)
    assert joined.plain == all(len(document) == 1 for document in documents)


def test_beginning_to_be_continued_splits_after_its_opener():
    encoder, decoder = split_prompt([Text("Once", target=True)], BYTES)
    assert (written(encoder), written(decoder)) == ("<|end|>", "<|text|>Once")


def test_nothing_to_predict_cannot_train_an_encoder_decoder():
    with pytest.raises(TokenizerError, match="answer"):
        split_source(encode([Text("q")], BYTES), BYTES)


def test_text_that_spells_structure_stays_text():
    encoded = encode([Text("a<|answer|>b"), Text("<|end|>", target=True)], BYTES)
    special = set(BYTES.special.values())
    assert written([i for i in encoded.ids if i in special]) == "<|task|><|answer|><|end|>"
