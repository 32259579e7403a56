"""BPE dropout: the library's segmentation at rates 0 and 1, its lengths between, and a function of seed and key."""

import numpy as np
import pytest
from tokenizers import Tokenizer

import polytask.data.prepare
from polytask.data.loader import Loader
from polytask.data.pictures import PictureLoader
from polytask.data.prepare import prepare
from polytask.data.sources import SourceSpec
from polytask.errors import TokenizerError
from polytask.recipe import load_recipe
from polytask.tokenizers.dropout import Dropout
from polytask.tokenizers.text import TextTokenizer

TEXTS = [
    "a large red circle is left of a small blue square, and a tiny circle is above the large square",
    "the largest squares are larger than the smallest circles",
    "  spaces\n\nand lines,\ttabs; numbers 12345 and it's, we'll, naïve café 東京 🙂 <|end|> <|text|>",
    "",
    "x",
]


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer.train(TEXTS * 20, 480)


def library(tokenizer, rate):
    """The same tokenizer as the library alone drops merges."""
    made = Tokenizer.from_str(tokenizer.to_json())
    made.encode_special_tokens = True
    made.model.dropout = rate
    return lambda text: made.encode(text, add_special_tokens=False).ids


def test_without_dropout_it_is_the_tokenizer(tokenizer):
    assert Dropout(0.0).cut(tokenizer, 1)(TEXTS) == [list(tokenizer.encode(text)) for text in TEXTS]


def test_with_all_merges_left_out_it_is_the_bytes(tokenizer):
    whole = library(tokenizer, 1.0)
    found = Dropout(1.0).cut(tokenizer, 1)(TEXTS)
    assert found == [whole(text) for text in TEXTS]
    assert [len(ids) for ids in found] == [len(text.encode()) for text in TEXTS]


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_lengths_are_those_of_the_library(rate, tokenizer):
    ours, theirs = Dropout(rate).cut(tokenizer, 7), library(tokenizer, rate)
    one = np.array([len(ids) for ids in ours([TEXTS[0]] * 600)])
    two = np.array([len(theirs(TEXTS[0])) for _ in range(600)])
    spread = float(np.hypot(one.std(), two.std())) / np.sqrt(600)
    assert len(tokenizer.encode(TEXTS[0])) < one.mean() < len(TEXTS[0])
    assert abs(one.mean() - two.mean()) < 4 * spread
    assert one.std() == pytest.approx(two.std(), rel=0.2)


def test_it_is_a_function_of_seed_and_key_and_loses_nothing(tokenizer):
    def cut(*key, seed=0):
        return Dropout(0.3, seed=seed).cut(tokenizer, *key)(TEXTS)

    assert cut(1, 2) == cut(1, 2)
    assert len({str(found) for found in (cut(1, 2), cut(1, 3), cut(2, 2), cut(1, 2, seed=1))}) == 4
    assert [tokenizer.decode(ids) for ids in cut(5)] == TEXTS


def test_other_tokenizers_are_refused():
    with pytest.raises(TokenizerError, match="byte-level BPE, and this tokenizer is none"):
        Dropout(0.1).cut(TextTokenizer.bytes(), 0)


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYTASK_CACHE", str(tmp_path / "cache"))
    rows = [f'{{"source": "the {n} large squares", "target": "die {n} circles"}}' for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "held.jsonl").write_text("\n".join(rows[:5]))
    fields = {"source_lang": "en", "target_lang": "de"}
    return SourceSpec("translation", str(tmp_path / "rows.jsonl"), fields=fields, validation=f"{tmp_path}/held.jsonl")


def documents(store, tokenizer):
    found = [store.tokens[start : start + length] for start, length in zip(store.starts, store.lengths)]
    return [(tokenizer.decode(ids), ids.tolist()) for ids in found]


def test_rows_are_learnt_in_several_ways_and_judged_in_one(source, tokenizer, tmp_path, monkeypatch):
    plain = prepare([source], tokenizer)
    made = prepare([source], tokenizer, dropout=Dropout(0.3, times=3))
    monkeypatch.setattr(polytask.data.prepare, "_BATCH_ROWS", 12)  # so that other processes cut some of them
    again = prepare([source], tokenizer, dropout=Dropout(0.3, times=3), cache=tmp_path / "other", cores=2)
    other = prepare([source], tokenizer, dropout=Dropout(0.3, times=3, seed=1))
    whole = documents(plain.sources[0].train, tokenizer)
    cut = documents(made.sources[0].train, tokenizer)
    assert sorted(cut) == sorted(documents(again.sources[0].train, tokenizer))
    assert sorted(cut) != sorted(documents(other.sources[0].train, tokenizer))
    assert sorted(text for text, _ in cut) == sorted(3 * [text for text, _ in whole])
    for text, _ in whole:
        assert len({str(ids) for known, ids in cut if known == text}) > 1
    held = made.sources[0].validation
    assert documents(held, tokenizer) == documents(plain.sources[0].validation, tokenizer)
    counts, once = made.sources[0].train.counts, plain.sources[0].train.counts
    assert (counts.characters, counts.predicted_bytes) == (3 * once.characters, 3 * once.predicted_bytes)
    loader = Loader(made, 4, 64)
    cycle = loader.rows[0] // 4
    assert loader.epochs(cycle)["rows"] == pytest.approx(3, rel=0.1)  # a row is seen once in each way


def test_captions_are_cut_anew_in_every_epoch(tmp_path, monkeypatch, tokenizer):
    from PIL import Image

    from polytask.data.albums import prepare_pictures

    monkeypatch.setenv("POLYTASK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "train").mkdir()
    lines = []
    for n in range(12):
        Image.new("RGB", (8, 8), (n, n, n)).save(tmp_path / "train" / f"{n}.png")
        lines.append(f'{{"file_name": "{n}.png", "caption": "the large squares of the largest circle {n}"}}')
    (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(lines))
    pictures = prepare_pictures([SourceSpec("drawing", str(tmp_path / "train"))], 8, holdout=0.4)
    loader = PictureLoader(pictures, tokenizer, len(pictures.sources[0].train), dropout=Dropout(0.3))
    again = PictureLoader(pictures, tokenizer, len(pictures.sources[0].train), dropout=Dropout(0.3))
    epochs = [captions(loader.batch(step)) for step in range(6)]
    for ids in epochs:
        assert sorted(map(tokenizer.decode, ids)) == sorted(pictures.sources[0].train.captions)
    assert captions(again.batch(4)) == epochs[4]
    assert len({str(one) for ids in epochs for one in ids}) > 2 * len(epochs[0])
    for ids in captions(next(loader.validation_batches(0))):
        assert ids == list(tokenizer.encode(tokenizer.decode(ids)))


def captions(batch):
    """The ids of each caption, without its end; rows that fill a batch up have none."""
    return [ids[mask][:-1].tolist() for ids, mask in zip(batch.ids, batch.mask) if mask.any()]


def test_a_recipe_says_it():
    recipe = load_recipe("emoji", ["tokenizer.dropout=0.1", "seed=5"])
    assert recipe.dropout == Dropout(0.1, 4, 5)
    assert load_recipe("emoji", []).dropout is None
    assert load_recipe("emoji", ["tokenizer.dropout=0.1", "tokenizer.segmentations=2"]).dropout == Dropout(0.1, 2, 0)
