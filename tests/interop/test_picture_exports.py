"""A model that draws token by token, exported and imported again: it draws and describes the same, bit for bit."""

import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

import polytask
from polytask.cli.main import app
from polytask.errors import CheckpointError
from polytask.interop import hf, picture_tokenizer
from polytask.interop.folder import fingerprint
from polytask.nn.cache import Context
from tests.serving.artists import by_tokens, picture


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Ours, what was exported of it, and what was imported of that; with what the commands said."""
    root = tmp_path_factory.mktemp("models")
    ours, theirs, again = (root / name for name in ("ours", "theirs", "again"))
    by_tokens().save(ours)
    said = [
        CliRunner().invoke(app, ["export", str(ours), str(theirs)]),
        CliRunner().invoke(app, ["import", str(theirs), str(again)]),
    ]
    assert [done.exit_code for done in said] == [0, 0], [done.output for done in said]
    return ours, theirs, again, said[0].output


def test_it_draws_and_describes_the_same(folders):
    ours, *others = map(polytask.load, folders[:3])
    drawn = [one.tobytes() for one in ours.draw("a red circle", n=2, seed=7)]
    for other in others:
        assert [one.tobytes() for one in other.draw("a red circle", n=2, seed=7)] == drawn
        assert other.caption(picture(), max_tokens=8, temperature=0) == ours.caption(
            picture(), max_tokens=8, temperature=0
        )
        assert other.tokenizer.pictures.fingerprint == ours.tokenizer.pictures.fingerprint
    assert drawn[0] != drawn[1]


def test_what_others_read_of_it(folders):
    """transformers has the same likelihood of texts, and sees nothing of the folder beside."""
    import transformers

    model = polytask.load(folders[0])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folders[1]).eval()
    ids = torch.tensor([[model.tokenizer.special["<|text|>"], *model.tokenizer.encode("a red circle")]])
    with torch.no_grad():
        places = torch.arange(ids.shape[1])[None]
        ours = model.network.logits(model.network(ids, Context(places)))
        assert (theirs(ids).logits - ours).abs().max() < 1e-4
    assert "texts alone" in " ".join(folders[3].split())


def test_vectors_of_rows_and_columns_come_along(folders, tmp_path):
    ours, *others = (polytask.load(folder).network for folder in folders[:3])
    assert all(torch.equal(other.grid.weight, ours.grid.weight) for other in others)
    assert all(other.config.grid == ours.config.grid for other in others)
    with pytest.raises(CheckpointError, match="export it with its tokenizer"):
        hf.export(tmp_path / "alone", ours)
    copy = tmp_path / "copy"
    shutil.copytree(folders[1], copy)
    (copy / picture_tokenizer.FOLDER / picture_tokenizer.GRID).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="holds no vectors of rows and columns"):
        polytask.load(copy)


def test_a_layout_of_dalle_is_kept(tmp_path):
    model = by_tokens()
    made = model.tokenizer.with_pictures(model.tokenizer.pictures.autoencoder, 12)
    picture_tokenizer.write(tmp_path, made)
    again = picture_tokenizer.read(tmp_path, model.tokenizer)
    assert again.pictures.vocabulary == made.pictures.vocabulary


def test_another_picture_tokenizer_is_another_model(folders):
    before = fingerprint(folders[1])
    layout = folders[1] / picture_tokenizer.FOLDER / "layout.json"
    text = layout.read_text()
    layout.write_text(json.dumps({"text_length": 12}))
    assert fingerprint(folders[1]) != before
    layout.write_text("[]")
    with pytest.raises(CheckpointError, match=r"layout\.json does not say how pictures are laid out"):
        polytask.load(folders[1])
    layout.write_text(text)
    assert fingerprint(folders[1]) == before
