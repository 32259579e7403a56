"""Pictures that the network looks at by itself: each of a batch's states is of the picture that stands there."""

import io

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from polytask.data.loader import Loader
from polytask.data.prepare import Prepared, PreparedSource, prepare
from polytask.data.sources import SourceSpec
from polytask.data.store import Store, StoreWriter
from polytask.tasks.segment import Image, Text
from polytask.tokenizers import TextTokenizer, encode_documents
from polytask.tokenizers.encode import joined

TOKENS, SIDE = 4, 6
BYTES = TextTokenizer.bytes()
LOOKING = BYTES.with_sight(BYTES.vocab_size, TOKENS, SIDE)


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (SIDE, SIDE), (shade, 0, 255 - shade)).save(file, "PNG")
    return file.getvalue()


def store(folder, documents):
    writer = StoreWriter(folder, LOOKING.size)
    half = len(documents) // 2
    for part in (documents[:half], documents[half:]):
        fields = vars(encode_documents(part, LOOKING))
        fields.pop("plain")
        writer.add(**fields, predicted_bytes=np.ones(len(part), np.int64), characters=0, bytes=0)
    writer.close()
    return Store(folder)


def documents(rng, first: int, count: int):
    """Each says the shades of its pictures, none to three of them: "7,9" behind those two."""
    made, shade = [], first
    for _ in range(count):
        shades = list(range(shade, shade + int(rng.integers(0, 4))))
        shade += len(shades)
        shown = [part for one in shades for part in (Image(picture(one)), Text("x" * int(rng.integers(1, 9))))]
        made.append([*(shown or [Text("none")]), Text(",".join(map(str, shades)) or "-", target=True)])
    return made


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("looking")
    made = []
    for number, name in enumerate(("one", "two")):
        sides = [
            store(folder / name / side, documents(rng, 100 * number + 50 * held, 20))
            for held, side in enumerate(("train", "validation"))
        ]
        made.append(PreparedSource(name, "any", False, 1.0, *sides))
    return Prepared(tuple(made), BYTES.special, LOOKING.size, None, LOOKING.sight)


def shades(batch) -> list[tuple[list[int], str]]:
    """Of each document what its states show, and what its answer says."""
    colours = ((batch.pixels[:, 0, 0, 0] + 1) * 127.5).round().int()
    found = []
    for row in range(len(batch)):
        for number in range(1, int(batch.documents[row].max()) + 1):
            at = batch.documents[row] == number
            seen = batch.shown[row][at]
            assert (seen >= 0).equal(batch.ids[row][at] == LOOKING.sight.vocabulary.placeholder)
            seen = seen[seen >= 0].view(-1, TOKENS)
            assert (seen % TOKENS).equal(torch.arange(TOKENS).expand_as(seen))
            said = batch.targets[row][at][batch.weights[row][at] > 0][:-1]
            found.append((colours[seen[:, 0] // TOKENS].tolist(), LOOKING.decode(said.tolist())))
    return found


def test_states_are_those_of_the_pictures_that_stand_there(prepared):
    loader = Loader(prepared, 4, 96)
    batches = [loader.batch(step) for step in range(6)] + list(loader.validation_batches("two"))
    seen = [one for batch in batches for one in shades(batch)]
    assert all(said == (",".join(map(str, shown)) or "-") for shown, said in seen)
    assert {len(shown) for shown, _ in seen} == {0, 1, 2, 3}
    held = [shade for batch in loader.validation_batches("two") for shown, _ in shades(batch) for shade in shown]
    assert held
    assert min(held) >= 150


def test_each_picture_comes_once_and_a_batch_without_any_has_a_blank_one(prepared, tmp_path):
    batch = Loader(prepared, 8, 96).batch(0)
    assert len(batch.pixels) == len({int(one) // TOKENS for one in batch.shown.unique() if one >= 0})
    assert batch.pixels.shape[1:] == (3, SIDE, SIDE)
    texts = store(tmp_path / "texts", [[Text(f"{n}?"), Text(str(n), target=True)] for n in range(20)])
    source = PreparedSource("texts", "any", False, 1.0, texts, texts)
    empty = Loader(Prepared((source,), BYTES.special, LOOKING.size, None, LOOKING.sight), 2, 96).batch(0)
    assert empty.pixels.shape == (1, 3, SIDE, SIDE)
    assert (empty.shown == -1).all()


def test_parts_are_joined_with_their_pictures():
    parts = [documents(np.random.default_rng(seed), 50 * seed, 5) for seed in range(3)]
    whole = encode_documents([one for part in parts for one in part], LOOKING)
    found = joined([encode_documents(part, LOOKING) for part in parts])
    for name, value in vars(whole).items():
        np.testing.assert_array_equal(getattr(found, name), value)


def test_rows_of_one_picture_become_one_document_that_shows_it_once(tmp_path):
    """Questions about the same picture, and edits each of what the last one made."""
    asked = [(1, "a"), (1, "b"), (1, "c"), (2, "a"), (2, "b"), (1, "d")]
    columns = {"image": [picture(s) for s, _ in asked], "question": [q for _, q in asked], "answers": [["x"]] * 6}
    pq.write_table(pa.table(columns), tmp_path / "asked.parquet")

    def told(together):
        source = SourceSpec("answering", str(tmp_path / "asked.parquet"), together=together, held_out=0.0)
        store = prepare([source], LOOKING, cache=tmp_path / "cache").sources[0].train
        parts = np.split(store.tokens, store.starts[1:])
        texts = [LOOKING.decode([i for i in ids.tolist() if i < BYTES.vocab_size]) for ids in parts]
        placeholders = [int((ids == LOOKING.sight.vocabulary.placeholder).sum()) for ids in parts]
        return [(text, count // TOKENS) for text, count in zip(texts, placeholders)]

    def said(*questions):
        return "".join(f"Question: {one}x" for one in questions)

    assert told(1) == [(said(one), 1) for _, one in asked]
    assert told(8) == [(said("a", "b", "c"), 1), (said("a", "b"), 1), (said("d"), 1)]
    assert told(2) == [(said("a", "b"), 1), (said("c"), 1), (said("a", "b"), 1), (said("d"), 1)]


def test_pictures_decide_what_is_held_out_where_rows_stand_together(tmp_path, monkeypatch):
    """However rows are cut into pieces of work, and beyond so many as may stand together."""
    rows = [{"image": picture(s), "question": q, "answers": ["x"]} for s in range(40) for q in "abcde"]
    monkeypatch.setattr("polytask.data.prepare._BATCH_ROWS", 7)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "asked.parquet")
    source = SourceSpec("answering", str(tmp_path / "asked.parquet"), together=3, held_out=0.3)
    made = prepare([source], LOOKING, cache=tmp_path / "cache").sources[0]
    train, held = ({one.tobytes() for one in side.pixels} for side in (made.train, made.validation))
    assert not train & held
    assert len(train | held) == 40
    assert 4 <= len(held) <= 20


def test_what_is_cut_keeps_its_states(prepared):
    """A document that is longer than a row loses the end of what is given: states stay at their pictures."""
    batch = Loader(prepared, 8, 16).batch(0)
    colours = ((batch.pixels[:, 0, 0, 0] + 1) * 127.5).round().int()
    for row in range(len(batch)):
        for number in range(1, int(batch.documents[row].max()) + 1):
            at = batch.documents[row] == number
            seen = batch.shown[row][at]
            said = LOOKING.decode(batch.targets[row][at][batch.weights[row][at] > 0][:-1].tolist())
            assert {str(int(colours[one // TOKENS])) for one in seen[seen >= 0]} <= set(said.split(","))
