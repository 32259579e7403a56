"""Pictures as ids beside those of texts: where they stand, what is learnt of them, and what is refused."""

import numpy as np
import pytest
import torch

from polytask.blocksworld.generate import example
from polytask.data.arrange import share_loss
from polytask.errors import TaskError, TokenizerError
from polytask.models.dvae import Autoencoder, AutoencoderConfig
from polytask.nn.quantizer import FiniteScalar
from polytask.systems.dalle import training_batch
from polytask.tasks import get_task, prompt
from polytask.tasks.picture import decode, to_tensor
from polytask.tasks.segment import Image, Text
from polytask.tokenizers.encode import encode, encode_many, prompt_ids
from polytask.tokenizers.text import TextTokenizer

TEXTS = TextTokenizer.bytes()
AUTOENCODER = AutoencoderConfig(image=32, width=8, quantizer=FiniteScalar((4, 4)), groups=3, blocks=1, first=8)
PICTURES = TEXTS.with_pictures(Autoencoder(AUTOENCODER).initialize(3))
DALLE = TEXTS.with_pictures(Autoencoder(AUTOENCODER).initialize(3), text_length=160)
ROW = example("captioning", 0)


def codes(data, tokenizer=PICTURES):
    """By the network alone."""
    found = tokenizer.pictures.autoencoder.codes(to_tensor([decode(data)]))
    return (found.flatten() + tokenizer.pictures.vocabulary.first).tolist()


def test_ids_of_pictures_come_after_those_of_texts():
    vocabulary = PICTURES.pictures.vocabulary
    assert (vocabulary.text, vocabulary.begin, vocabulary.end) == (
        TEXTS.vocab_size,
        *range(TEXTS.vocab_size, vocabulary.first),
    )
    assert PICTURES.size == TEXTS.vocab_size + 2 + 16
    assert PICTURES.encode("a cube") == TEXTS.encode("a cube")
    assert len({TEXTS.fingerprint, PICTURES.fingerprint, DALLE.fingerprint}) == 3


def test_a_picture_stands_where_a_text_may():
    special, vocabulary = TEXTS.special, PICTURES.pictures.vocabulary
    drawn = [vocabulary.begin, *codes(ROW["image"]), vocabulary.end]
    given, answer = TEXTS.encode("What?"), TEXTS.encode("a cube")
    looked = encode([Image(ROW["image"]), Text("What?"), Text("a cube", target=True)], PICTURES)
    end = special["<|end|>"]
    assert looked.ids.tolist() == [special["<|task|>"], *drawn, *given, special["<|answer|>"], *answer, end]
    assert looked.weights.tolist() == [0.0] * (len(drawn) + len(given) + 2) + [1.0] * (len(answer) + 1)
    made = encode([Text("What?"), Image(ROW["image"], target=True)], PICTURES)
    assert made.ids.tolist() == [special["<|task|>"], *given, special["<|answer|>"], *drawn, end]
    assert made.weights.tolist() == [0.0] * (len(given) + 2) + [1.0] * (len(drawn) + 1)


@pytest.mark.parametrize("name", ["drawing", "editing", "captioning", "answering"])
@pytest.mark.parametrize("tokenizer", [PICTURES, DALLE], ids=["among texts", "DALL-E"])
def test_a_prompt_is_how_the_document_begins(name, tokenizer):
    if tokenizer is DALLE and name != "drawing":
        return
    task, row = get_task(name), example(name, 1, pixels=32)
    (whole,) = encode_many([task.segments(row)], tokenizer)
    given = {field: row[field] for field, about in task.fields.items() if field in row and not about.answer}
    asked = prompt_ids(prompt(task, given), tokenizer)
    assert whole.ids[: len(asked)].tolist() == asked
    assert len(whole.ids) > len(asked)


def test_dall_e_learns_what_its_system_says():
    """The row and its weights are those of `systems.dalle.training_batch`, up to a factor."""
    rows = [example("drawing", number) for number in range(3)]
    documents = [get_task("drawing").segments(row) for row in rows]
    vocabulary = DALLE.pictures.vocabulary
    grids = DALLE.pictures.autoencoder.codes(to_tensor([decode(row["image"]) for row in rows]))
    batch = training_batch([TEXTS.encode(segments[0].text) for segments in documents], grids, vocabulary)
    encoded = encode_many(documents, DALLE)
    ids = np.stack([one.ids for one in encoded])
    arrays = {"targets": ids[:, 1:], "weights": np.stack([one.weights[1:] for one in encoded])}
    share_loss(arrays, vocabulary.first, 7 / 8)
    assert torch.equal(torch.from_numpy(ids[:, :-1]).long(), batch.ids)
    weights = torch.from_numpy(arrays["weights"])
    torch.testing.assert_close(weights / weights.sum(1, keepdim=True), batch.weights)


def test_rows_without_one_of_the_two_keep_their_weights():
    arrays = {
        "targets": np.array([[1, 2, 9, 9], [1, 2, 3, 4], [9, 9, 9, 1]]),
        "weights": np.array([[1, 1, 1, 0], [1, 0, 1, 1], [1, 1, 1, 0]], np.float32),
    }
    share_loss(arrays, 9, 0.75)
    np.testing.assert_allclose(arrays["weights"], [[0.375, 0.375, 2.25, 0], [1, 0, 1, 1], [1, 1, 1, 0]], rtol=1e-6)


def test_ids_of_pictures_have_names():
    ids = encode([Image(ROW["image"]), Text("a", target=True)], PICTURES).ids.tolist()
    names = "".join(f"<|code_{i - PICTURES.pictures.vocabulary.first}|>" for i in codes(ROW["image"]))
    assert PICTURES.decode(ids, special=True) == f"<|task|><|image|>{names}<|end of image|><|answer|>a<|end|>"
    assert PICTURES.decode(ids) == "a"
    with pytest.raises(TokenizerError, match="Id 999"):
        PICTURES.decode([999], special=True)


def test_pictures_go_to_ids_and_back_in_any_size():
    pictures = PICTURES.pictures
    large = example("captioning", 0, pixels=64)["image"]
    few, again, other = pictures.read([ROW["image"], ROW["image"], large])
    assert few == again == codes(ROW["image"])
    assert len(other) == 64
    shown = decode(pictures.drawn([few])[0])
    expected = pictures.autoencoder.pixels(pictures.autoencoder.codes(to_tensor([decode(ROW["image"])])))
    torch.testing.assert_close(to_tensor(shown), expected[0].detach(), rtol=0, atol=1 / 127)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: encode([Image(ROW["image"]), Text("a", target=True)], TEXTS), TaskError, "text alone"),
        (lambda: prompt_ids(prompt(get_task("drawing"), {"caption": "a"}), TEXTS), TaskError, "text alone"),
        (lambda: encode([Image(ROW["image"]), Text("a", target=True)], DALLE), TokenizerError, "nothing else"),
        (lambda: prompt_ids([Text("What?")], DALLE), TokenizerError, "nothing else"),
        (lambda: encode([Text("a" * 161), Image(ROW["image"], target=True)], DALLE), TokenizerError, "161 tokens"),
        (lambda: encode([Image(b"no"), Text("a", target=True)], PICTURES), TaskError, "no picture"),
        (lambda: TEXTS.with_pictures(torch.nn.Linear(1, 1)), TokenizerError, "autoencoder"),
    ],
)
def test_mistakes_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()
