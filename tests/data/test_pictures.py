"""Pictures from files of every layout, broken ones counted and passed over; batches that depend on the step alone."""

import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from polytask.data.albums import prepare_pictures
from polytask.data.mixture import Mixture
from polytask.data.pictures import PictureBatch, PictureLoader
from polytask.data.sources import SourceSpec, read
from polytask.errors import ConfigError, DataError
from polytask.tasks.picture import decode, png
from polytask.tokenizers.text import TextTokenizer

SHADES = (10, 60, 110, 160, 210)


def shade(value, size=(8, 8)):
    return Image.new("RGB", size, (value, value, value))


def values(rows, name="image"):
    return [decode(row[name]).getpixel((0, 0))[0] for row in rows]


def rows_of(task, path, **more):
    return list(read(SourceSpec(task, str(path), **more)))


@pytest.fixture
def folder(tmp_path):
    """Five pictures with captions, as Hugging Face's imagefolder has them."""
    root = tmp_path / "captioned"
    (root / "more").mkdir(parents=True)
    lines = []
    for number, value in enumerate(SHADES):
        name = f"{'more/' if number % 2 else ''}{number}.png"
        shade(value).save(root / name)
        lines.append({"file_name": name, "caption": f"shade {value}"})
    (root / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


@pytest.mark.parametrize("task", ["drawing", "captioning"])
def test_a_folder_with_captions(folder, task):
    rows = rows_of(task, folder)
    assert values(rows) == list(SHADES)
    assert [row["caption"] for row in rows] == [f"shade {value}" for value in SHADES]


def test_a_folder_with_captions_in_csv_and_other_columns(folder):
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text("file_name,text\n0.png,first\nmore/1.png,second\n")
    rows = rows_of("drawing", folder, columns={"caption": "text"})
    assert (values(rows), [row["caption"] for row in rows]) == ([10, 60], ["first", "second"])


def test_parquet_with_bytes_or_with_structs(tmp_path):
    data = [png(shade(value)) for value in SHADES]
    plain = [{"image": one, "caption": str(i)} for i, one in enumerate(data)]
    nested = [{"picture": {"bytes": one, "path": None}, "label": str(i)} for i, one in enumerate(data)]
    pq.write_table(pa.Table.from_pylist(plain), tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_pylist(nested), tmp_path / "b.parquet")
    assert values(rows_of("captioning", tmp_path / "a.parquet")) == list(SHADES)
    rows = rows_of("classification", tmp_path / "b.parquet", columns={"image": "picture"})
    assert (values(rows), [row["label"] for row in rows]) == (list(SHADES), list("01234"))


def test_pictures_before_and_after_an_instruction(tmp_path):
    rows = [
        {"image": png(shade(one)), "edited": png(shade(one + 30)), "instruction": f"lighten {one}"} for one in SHADES
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "edits.parquet")
    source = SourceSpec("editing", str(tmp_path / "edits.parquet"))
    prepared = prepare_pictures([source], 8, cache=tmp_path / "cache")
    tokenizer = TextTokenizer.train([row["instruction"] for row in rows], 300)
    batch = PictureLoader(prepared, tokenizer, 5, 32).batch(0)
    assert batch.given.shape == batch.pixels.shape == (5, 3, 8, 8)
    apart = (batch.pixels - batch.given) * 127.5
    assert torch.allclose(apart, torch.full_like(apart, 30.0), atol=1e-3)
    assert torch.equal(batch.to("cpu").given, batch.given)
    assert batch.mask.any(1).all()
    again = prepare_pictures([source], 8, cache=tmp_path / "cache")
    assert np.array_equal(again.sources[0].train.given, prepared.sources[0].train.given)
    given = next((tmp_path / "cache").glob("pictures-*/train/given.bin"))
    given.write_bytes(given.read_bytes()[:-1])
    with pytest.raises(DataError, match="the prepared pictures are damaged"):
        prepare_pictures([source], 8, cache=tmp_path / "cache")


def test_json_lines_with_paths(folder, tmp_path):
    """Relative to the file that names them, or absolute."""
    lines = [{"image": "captioned/0.png", "caption": "a"}, {"image": str(folder / "more" / "1.png"), "caption": "b"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert values(rows_of("drawing", tmp_path / "rows.jsonl")) == [10, 60]


def test_edits_name_two_pictures(folder):
    lines = [{"file_name": "0.png", "instruction": "lighten", "edited_file_name": "more/1.png"}]
    (folder / "metadata.jsonl").write_text(json.dumps(lines[0]))
    (row,) = rows_of("editing", folder)
    assert values([row]) + values([row], "edited") == [10, 60]


@pytest.mark.parametrize("split", [None, "train", "validation"])
def test_class_folders(tmp_path, split):
    tops = ("train", "validation") if split else ("",)
    for top in tops:
        for number, label in enumerate(("cat", "train", "dog")):
            (tmp_path / top / label).mkdir(parents=True)
            shade(SHADES[number] + len(top)).save(tmp_path / top / label / "1.jpg", quality=95)
    rows = rows_of("classification", tmp_path, split=split)
    found = dict(zip([row["label"] for row in rows], values(rows)))
    assert found == pytest.approx(
        {"cat": 10 + len(split or ""), "train": 60 + len(split or ""), "dog": 110 + len(split or "")}, abs=2
    )
    named = rows_of("drawing", tmp_path, split=split, columns={"caption": "label"})
    assert sorted(row["caption"] for row in named) == ["cat", "dog", "train"]


def test_broken_pictures_are_counted_named_and_passed_over(tmp_path):
    data = png(shade(100))
    noise = png(Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)))
    cut = noise[: len(noise) // 2]
    rows = [{"image": data, "caption": "good"} for _ in range(300)]
    rows[7]["image"], rows[100]["image"] = b"not a picture", cut
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    skips = []
    good = list(read(SourceSpec("drawing", str(tmp_path / "a.parquet")), skips.append))
    assert len(good) == 298
    assert [skip.where for skip in skips] == [f"{tmp_path / 'a.parquet'} row {n}" for n in (8, 101)]
    assert "no picture that is read" in skips[0].why
    assert "broken" in skips[1].why
    for row in rows[8:18]:
        row["image"] = b""
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"12 of 300 rows cannot be read.*row 8: This is no picture.*10 rows and 1%"):
        rows_of("drawing", tmp_path / "a.parquet")


def test_one_broken_picture_of_a_small_folder_is_passed_over(folder, caplog):
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:40])
    assert values(rows_of("drawing", folder)) == list(SHADES[1:])
    said = caplog.messages[0]
    assert "1 of 5 rows cannot be read and were skipped" in said
    assert f"{folder / 'metadata.jsonl'} row 1: " in said
    assert re.search(r"[^.]\.$", said), "it ends with one full stop"


def test_a_missing_file_is_named(folder, caplog):
    shutil.move(folder / "0.png", folder / "gone.png")
    rows_of("drawing", folder)
    assert re.search(r"1 of 5 rows.*metadata.jsonl row 1: .*0.png: the picture cannot be read", caplog.messages[0])


def test_a_single_broken_file_of_a_class_folder_is_named(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"cat/a.png: This is no picture"):
        rows_of("classification", tmp_path)


def test_a_missing_column_names_those_there_are(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"picture": "a.png", "caption": "b"}\n')
    with pytest.raises(DataError, match="column 'image' is missing; the file has: picture, caption"):
        rows_of("drawing", tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text('{"words": "a", "label": "b"}\n')
    with pytest.raises(DataError, match="column 'text' is missing"):
        rows_of("classification", tmp_path / "b.jsonl")


def test_blocksworld_has_pictures():
    rows = rows_of("drawing", "blocksworld", limit=3, options={"pixels": 64, "objects": [1, 1]})
    assert [decode(row["image"]).size for row in rows] == [(64, 64)] * 3
    assert all(set(row) == {"caption", "image", "judge"} for row in rows)
    assert "image" in rows_of("answering", "blocksworld", limit=1, options={"pixels": 32})[0]
    assert "context" in rows_of("answering", "blocksworld", limit=1)[0]


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer.characters(["shade 0123456789", "blue"])


@pytest.fixture
def pictures(folder, tmp_path):
    sources = [
        SourceSpec("drawing", str(folder), name="shades"),
        SourceSpec("classification", "blocksworld", name="blocks", limit=40, options={"pixels": 32}),
    ]
    return prepare_pictures(sources, 8, cache=tmp_path / "cache", holdout=0.2)


def test_batches_are_a_function_of_seed_and_step(pictures, tokenizer):
    loader = PictureLoader(pictures, tokenizer, 6, text_length=16, seed=3)
    again = PictureLoader(pictures, tokenizer, 6, text_length=16, seed=3)
    list(again.batches(0, 3))
    for step in (0, 5, 1):
        one, other = loader.batch(step), again.batch(step)
        same = [torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values()) if a is not None]
        assert len(same) == 5
        assert all(same)
    assert not torch.equal(loader.batch(0).pixels, loader.batch(1).pixels)
    assert not torch.equal(loader.batch(0).pixels, PictureLoader(pictures, tokenizer, 6, seed=4).batch(0).pixels)
    ahead = list(loader.batches(2, 4))
    assert torch.equal(ahead[1].pixels, loader.batch(3).pixels)


def test_ranks_share_the_batch(pictures, tokenizer):
    whole = PictureLoader(pictures, tokenizer, 6).batch(2)
    parts = [PictureLoader(pictures, tokenizer, 6, rank=rank, world=2).batch(2) for rank in (0, 1)]
    joined = torch.stack([part.pixels for part in parts], dim=1).flatten(0, 1)
    assert torch.equal(joined, whole.pixels)


def test_what_a_batch_holds(pictures, tokenizer):
    loader = PictureLoader(pictures, tokenizer, 4, text_length=12, mixture=Mixture({"shades": 1.0}))
    batch = loader.batch(0)
    assert isinstance(batch, PictureBatch)
    assert (batch.pixels.shape, batch.pixels.dtype) == ((4, 3, 8, 8), torch.float32)
    assert (batch.ids.shape, batch.mask.dtype, len(batch)) == ((4, 12), torch.bool, 4)
    assert batch.labels.tolist() == [-1] * 4
    assert batch.sources.tolist() == [0] * 4
    for pixels, ids, mask in zip(batch.pixels, batch.ids, batch.mask):
        value = round((float(pixels[0, 0, 0]) + 1) * 127.5)
        assert tokenizer.decode(ids[mask][:-1].tolist()) == f"shade {value}"[:11]
        assert ids[mask][-1] == tokenizer.special["<|end|>"]
        assert (ids[~mask] == tokenizer.special["<|pad|>"]).all()


def test_captions_are_as_long_as_the_longest_in_steps(pictures, tokenizer):
    loader = PictureLoader(pictures, tokenizer, 5, text_length=64, mixture=Mixture({"shades": 1.0}))
    for step in range(3):
        batch = loader.batch(step)
        longest = int(batch.mask.sum(1).max())
        assert batch.ids.shape == batch.mask.shape == (5, 8 * -(-longest // 8))
        assert batch.ids.shape[1] < 64


def test_labels_have_one_number_for_all_sources(pictures, tokenizer):
    loader = PictureLoader(pictures, tokenizer, 8, text_length=32, mixture=Mixture({"blocks": 1.0}))
    batch = loader.batch(0)
    assert list(pictures.labels) == sorted(pictures.labels)
    album = pictures.sources[1].train
    assert [pictures.labels[number] for number in album.labels] == album.captions
    assert (batch.labels >= 0).all()


def test_every_picture_comes_once_an_epoch(pictures):
    count = len(pictures.sources[1].train)
    loader = PictureLoader(pictures, None, count, mixture=Mixture({"blocks": 1.0}))
    batch = loader.batch(7)
    assert batch.ids.shape == (count, 0)
    seen = {pixels.numpy().tobytes() for pixels in batch.pixels}
    own = {
        (torch.from_numpy(np.array(p)).permute(2, 0, 1).float() / 127.5 - 1).numpy().tobytes()
        for p in pictures.sources[1].train.pixels
    }
    assert seen == own
    assert loader.epochs(7) == {"shades": 0.0, "blocks": 7.0}


def test_validation_is_always_the_same_and_filled_up(pictures, tokenizer):
    loader = PictureLoader(pictures, tokenizer, 3)
    held = len(pictures.sources[1].validation)
    batches = list(loader.validation_batches("blocks"))
    sources = torch.cat([batch.sources for batch in batches])
    assert (sources == 1).sum() == held > 0
    assert (sources[held:] == -1).all()
    assert not torch.cat([batch.mask for batch in batches])[held:].any()
    assert len(list(loader.validation_batches("blocks", limit=1))) == 1
    with pytest.raises(ConfigError, match="did you mean 'blocks'"):
        next(loader.validation_batches("block"))


def test_pictures_are_decoded_once(folder, tmp_path):
    sources, told = [SourceSpec("drawing", str(folder))], []
    first = prepare_pictures(sources, 8, cache=tmp_path / "cache")
    assert isinstance(first.sources[0].train.pixels, np.memmap)
    (folder / "0.png").touch()  # another time of change is another picture
    prepare_pictures(sources, 8, cache=tmp_path / "cache")
    prepare_pictures(sources, 4, cache=tmp_path / "cache")
    prepare_pictures(sources, 8, "pad", cache=tmp_path / "cache", progress=lambda *counts: told.append(counts))
    kept = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert len(kept) == 4
    before = {path: path.stat().st_mtime_ns for path in kept}
    prepare_pictures(sources, 4, cache=tmp_path / "cache")
    assert before == {path: path.stat().st_mtime_ns for path in kept}


def test_mistakes_are_told(folder, tmp_path, pictures, tokenizer):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": "b"}\n')
    texts = SourceSpec("classification", str(tmp_path / "a.jsonl"), name="texts")
    with pytest.raises(DataError, match="'texts' has rows without a picture"):
        prepare_pictures([texts], 8, cache=tmp_path / "cache")
    with pytest.raises(ConfigError, match="Two sources are called 'texts'"):
        prepare_pictures([texts, texts], 8, cache=tmp_path / "cache")
    with pytest.raises(ConfigError, match="cannot be shared by 4 ranks"):
        PictureLoader(pictures, tokenizer, 2, world=4)
    with pytest.raises(ConfigError, match="text_length is 2 or more"):
        PictureLoader(pictures, tokenizer, 2, text_length=1)
    nothing = prepare_pictures([SourceSpec("drawing", str(folder))], 8, cache=tmp_path / "cache")
    with pytest.raises(DataError, match="no held-out pictures"):
        next(PictureLoader(nothing, None, 2).validation_batches(0))


@pytest.mark.parametrize(("name", "hint"), [("objcts", "did you mean 'objects'?"), ("pixels:8", "wants a space")])
def test_an_option_that_a_world_has_not(name, hint):
    with pytest.raises(ConfigError, match=rf"blocksworld has no option '{name}'.*{re.escape(hint)}"):
        rows_of("drawing", "blocksworld", limit=1, options={name: 3})
