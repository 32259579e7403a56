"""Log-probabilities of completions, where tokens are no whole characters."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from polytask.serving.logprobs import Offsets, text_logprobs
from polytask.tokenizers.text import TextTokenizer
from tests.inference.networks import TOKENIZER

WRITTEN = "Zürich, 😀 ä"


def beginnings(text: str, sizes: list[int]) -> list[int]:
    """The character in which each token begins, from the bytes before it."""
    begun = [sum(sizes[:number]) for number in range(len(sizes))]
    return [len(text.encode()[:byte].decode(errors="ignore")) for byte in begun]


@pytest.mark.parametrize("stream", [False, True])
def test_offsets_point_to_the_characters_of_the_text(client, stream):
    form = {"type": "regex", "pattern": WRITTEN}
    answers = client.completions.create(
        model="tiny", prompt="Grüße", max_tokens=99, echo=True, logprobs=1, temperature=0, stream=stream,
        extra_body={"response_format": form},
    )  # fmt: skip
    choices = [chunk.choices[0] for chunk in (answers if stream else [answers])]
    text = "".join(choice.text for choice in choices)
    assert text == "Grüße" + WRITTEN
    offsets = [place for choice in choices if choice.logprobs for place in choice.logprobs.text_offset]
    ids = [*TOKENIZER.encode("Grüße"), *TOKENIZER.encode(WRITTEN)]
    assert offsets == beginnings(text, [len(TOKENIZER.piece(i)) for i in ids])
    assert len(offsets) > len(text)


def test_a_broken_character_is_one():
    """As a network that is not trained writes them; special ids are no part of the text."""
    (end,) = TOKENIZER.ends
    ids = [i for byte in b"\xe2A\xe2\x82\xe2\x82\xac\xffB" for i in [_of(byte), end]]
    placed = Offsets(TOKENIZER, 5).of((i, None) for i in ids)
    assert [offset - 5 for i, _, offset in placed if i != end] == [0, 1, 2, 2, 3, 3, 3, 4, 5]
    assert TOKENIZER.decode(ids) == "\ufffdA\ufffd€\ufffdB"


def test_where_pieces_depend_on_their_neighbours():
    made = Tokenizer(models.WordPiece({"[UNK]": 0, "ab": 1, "##c": 2}, unk_token="[UNK]"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    tokenizer = TextTokenizer(made)
    assert tokenizer.decode([1, 2, 1]) == "abc ab"
    assert [offset for *_, offset in Offsets(tokenizer).of((i, None) for i in (1, 2, 1))] == [0, 2, 3]


def test_the_space_that_a_text_loses_in_front_counts_nowhere():
    made = Tokenizer(models.BPE(vocab={"▁": 0, "a": 1, "▁a": 2}, merges=[("▁", "a")]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = TextTokenizer(made)
    assert tokenizer.decode([2, 1, 2]) == "aa a"
    assert [offset for *_, offset in Offsets(tokenizer).of((i, None) for i in (2, 1, 2))] == [0, 1, 2]


def test_of_ids_with_one_text_the_likeliest_is_told():
    place = {_of(0xC3): -0.5, _of(ord("a")): -1.0, _of(0xE2): -3.0}
    (best,) = text_logprobs(TOKENIZER, [(_of(0xC3), place, 0)], 3)["top_logprobs"]
    assert best == {"\ufffd": -0.5, "a": -1.0}


def _of(byte: int) -> int:
    return next(i for i in range(TOKENIZER.vocab_size) if TOKENIZER.piece(i) == [byte])
