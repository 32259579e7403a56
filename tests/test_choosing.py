"""Many pictures are drawn and a CLIP takes the best."""

import pytest
import torch
from typer.testing import CliRunner

import polytask
from polytask.cli.main import app
from polytask.errors import ConfigError
from polytask.inference.matching import Matcher
from polytask.interop import networks
from polytask.tasks.picture import to_tensor
from tests.inference.networks import TOKENIZER
from tests.painters import write_captioned, write_clip, write_unclip

FEW = {"steps": 3, "guidance": 1.0}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = write_captioned(tmp_path_factory.mktemp("captioned"))
    write_clip(root / "clip", seed=4)
    return root


@pytest.fixture(scope="module")
def model(root):
    return polytask.load(root / "base")


def fits(folder, pictures, words):
    """The cosine of each picture with a text, one after the other."""
    network = networks.load(folder)
    ids = torch.tensor([[*TOKENIZER.encode(words), TOKENIZER.special["<|end|>"]]])
    wanted = network.encode_text(ids)[0]
    return [float(network.encode_image(to_tensor(one)[None])[0] @ wanted) for one in pictures]


def test_the_best_of_many_come_back_in_order(model, root):
    every = model.draw("a red one", n=6, seed=3, **FEW)
    found = model.draw("a red one", n=2, seed=3, candidates=6, clip=root / "clip", **FEW)
    order = sorted(range(6), key=fits(root / "clip", every, "a red one").__getitem__, reverse=True)
    assert [one.tobytes() for one in found] == [every[i].tobytes() for i in order[:2]]


def test_every_caption_has_candidates_of_its_own(model, root):
    words = {"candidates": 3, "clip": root / "clip", "seed": 1, **FEW}
    both = model.draw_many(["red", "blue"], **words)
    every = model.draw_many(["red", "blue"], n=3, seed=1, **FEW)
    for (found,), own, caption in zip(both, every, ("red", "blue"), strict=True):
        scores = fits(root / "clip", own, caption)
        assert found.tobytes() == own[scores.index(max(scores))].tobytes()


def test_a_model_that_holds_a_clip_needs_no_other(tmp_path_factory):
    root = write_unclip(tmp_path_factory.mktemp("unclip"))
    own = polytask.load(root / "larger").painter.matcher
    assert isinstance(own, Matcher)
    assert own.embed_texts(["red"]).shape == (1, 16)


@pytest.mark.parametrize(("words", "sentence"), [
    ({"candidates": 4}, "holds no CLIP to choose by"), ({"clip": "clip"}, "say how many"),
    ({"candidates": 1, "n": 2, "clip": "clip"}, "candidates=1 must be a whole number of at least n=2"),
    ({"candidates": 513, "clip": "clip"}, "at most 512"), ({"candidates": 4, "clip": "base"}, "holds no CLIP; name"),
])  # fmt: skip
def test_mistakes_are_named(words, sentence, model, root):
    given = words | ({"clip": root / words["clip"]} if "clip" in words else {})
    with pytest.raises(ConfigError, match=sentence):
        model.draw("red", steps=1, **given)


def test_the_command_line(root, tmp_path):
    def draw(*words):
        given = ["draw", root / "base", "a red one", "--steps", 2, "--out", tmp_path, *words]
        return CliRunner().invoke(app, [str(word) for word in given])

    assert draw("--candidates", 4, "--clip", root / "clip").stdout.split() == [str(tmp_path / "1.png")]
    wrong = draw("--temperature", 0.5)
    assert wrong.exit_code == 2
    assert "drawing: there is no 'temperature'" in wrong.stderr
