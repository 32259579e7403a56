"""Tokenizers: every text comes back exactly, and no text can spell structure."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from polytask.errors import TokenizerError
from polytask.tokenizers import SPECIAL, TextTokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog. The dog doesn't mind; it's 1234 years old.\n",
    "Ein Hund rennt über die Straße. Die Straße ist lang.\n\n    def run(self):\n        return self.value + 1\n",
    "東京は日本の首都です。 Москва — столица России.",
] * 20

KINDS = {
    "trained": lambda: TextTokenizer.train(CORPUS, 500),
    "bytes": TextTokenizer.bytes,
    "characters": lambda: TextTokenizer.characters(CORPUS),
}


@pytest.fixture(scope="module")
def tokenizers():
    return {name: make() for name, make in KINDS.items()}


# Texts with what usually breaks tokenizers: control characters, byte names, special names, combining marks, emoji.
PIECES = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.sampled_from(["<|end|>", "<|mask_0|>", "<0x41>", "Ġ", "\x00", "\r\n", "  ", "\u2028", "👩‍👩‍👧", "'S", "\ufffd"]),
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_text_comes_back_exactly(tokenizers, kind, text):
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(len(SPECIAL) <= i < tokenizer.vocab_size for i in ids)
    (batched,) = tokenizer.encode_batch([text])
    assert batched.tolist() == ids


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(text=TEXTS, cut=st.integers(0, 40))
def test_stream_gives_what_decode_gives(tokenizers, kind, text, cut):
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode(text)
    ids = ids[: max(len(ids) - cut, 0)]  # may end inside of a character
    stream = tokenizer.stream()
    pieces = [stream.push(i) for i in ids]
    assert "".join([*pieces, stream.flush()]) == tokenizer.decode(ids)
    if cut == 0:
        assert "".join(pieces) == text  # nothing is held back once a character is complete


def test_bytes_are_the_utf8_bytes():
    text = "Straße 東京 👍\x00"
    expected = [len(SPECIAL) + byte for byte in text.encode()]
    tokenizer = TextTokenizer.bytes()
    assert tokenizer.encode(text) == expected
    assert tokenizer.vocab_size == len(SPECIAL) + 256


def test_characters_seen_are_one_id_and_unseen_ones_their_bytes():
    tokenizer = TextTokenizer.characters(["abcß"])
    assert len(tokenizer.encode("cabß")) == 4
    assert len(tokenizer.encode("東")) == len("東".encode())
    assert tokenizer.vocab_size == len(SPECIAL) + 256 + 4


def test_training_compresses_and_splits_as_gpt4_does(tokenizers):
    tokenizer = tokenizers["trained"]
    text = "".join(CORPUS[:3])
    assert len(tokenizer.encode(text)) < 0.5 * len(text.encode())
    digits = TextTokenizer.train(["123456789 " * 500], 400)
    assert [digits.decode([i]) for i in digits.encode("123456789")] == ["123", "456", "789"]


def test_training_is_deterministic(tokenizers):
    assert TextTokenizer.train(CORPUS, 500).fingerprint == tokenizers["trained"].fingerprint


def test_special_ids_come_first_in_order(tokenizers):
    for tokenizer in tokenizers.values():
        assert [tokenizer.special[name] for name in SPECIAL] == list(range(len(SPECIAL)))
        assert tokenizer.decode([tokenizer.special["<|end|>"], *tokenizer.encode("x")]) == "x"
        assert tokenizer.decode([tokenizer.special["<|end|>"]], special=True) == "<|end|>"


@pytest.mark.parametrize("kind", KINDS)
def test_saved_tokenizer_is_the_same(tokenizers, kind, tmp_path):
    tokenizer = tokenizers[kind]
    tokenizer.save(tmp_path / "tokenizer.json")
    again = TextTokenizer.load(tmp_path)
    text = "The dog <|end|> 東京 🙂"
    assert again.encode(text) == tokenizer.encode(text)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.special == tokenizer.special
    assert again.decode(again.encode(text)) == text


def test_fingerprint_tells_tokenizers_apart(tokenizers):
    assert len({tokenizer.fingerprint for tokenizer in tokenizers.values()}) == len(tokenizers)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": {"type": "BPE"}}', "\x00\x01", "[1, 2]"])
def test_broken_file_is_an_error_that_names_it(tmp_path, content):
    file = tmp_path / "tokenizer.json"
    file.write_text(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        TextTokenizer.load(file)


def test_file_that_is_not_text_or_missing_is_an_error(tmp_path):
    (tmp_path / "t.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TokenizerError, match=r"t\.json"):
        TextTokenizer.load(tmp_path / "t.json")
    with pytest.raises(TokenizerError, match=r"none\.json"):
        TextTokenizer.load(tmp_path / "none.json")


def test_user_mistakes_are_explained():
    tokenizer = TextTokenizer.bytes()
    with pytest.raises(TokenizerError, match="too small"):
        TextTokenizer.train(["a"], 100)
    with pytest.raises(TokenizerError, match="lone surrogate"):
        tokenizer.encode_batch(["fine", "bad \ud800"])
    with pytest.raises(TokenizerError, match="int"):
        tokenizer.encode_batch([3])  # type: ignore[list-item]
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(TokenizerError, match=str(wrong)):
            tokenizer.decode([wrong])
        with pytest.raises(TokenizerError, match=str(wrong)):
            tokenizer.stream().push(wrong)


@pytest.fixture(scope="module")
def foreign():
    """A tokenizer of another project: words with a lower-casing normalizer, and its own names for structure."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    names = ["<pad>", "</s>", "[UNK]"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=names, show_progress=False)
    )
    return TextTokenizer(tokenizer)


def test_foreign_tokenizer_goes_by_our_names(foreign):
    assert foreign.special == {"<|end|>": 1, "<|pad|>": 0}
    full = foreign.with_special()
    assert set(full.special) == set(SPECIAL)
    assert full.special["<|end|>"] == 1
    assert full.vocab_size == foreign.vocab_size + len(SPECIAL) - 2
    assert full.encode("the dog") == foreign.encode("the dog")
    assert foreign.vocab_size == TextTokenizer.from_json(foreign.to_json()).vocab_size


def test_foreign_tokenizer_streams_words(foreign):
    ids = foreign.encode("the quick brown dog")
    stream = foreign.stream()
    assert "".join([stream.push(i) for i in ids] + [stream.flush()]) == foreign.decode(ids) == "the quick brown dog"


def test_padding_and_truncation_of_a_file_do_not_apply():
    tokenizer = Tokenizer.from_str(TextTokenizer.bytes().to_json())
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=8)
    ours = TextTokenizer.from_json(tokenizer.to_str())
    assert len(ours.encode(string.ascii_lowercase)) == 26
    assert len(ours.encode("a")) == 1
