"""Many pictures are drawn and a CLIP takes the best."""

import pytest
import torch
from typer.testing import CliRunner

import polytask
from polytask.cli.main import app
from polytask.errors import ConfigError
from polytask.inference.dials import SEARCHED
from polytask.interop import networks
from polytask.tasks.picture import to_tensor
from tests.inference.networks import TOKENIZER
from tests.painters import SIDE, picture, write_captioned, write_clip

FEW = {"steps": 3, "guidance": 1.0}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = write_captioned(tmp_path_factory.mktemp("captioned"))
    write_clip(root / "clip", seed=4)
    return root


@pytest.fixture(scope="module")
def model(root):
    return polytask.load(root / "base")


@torch.no_grad()
def fits(folder, pictures, words):
    """The cosine of each picture with a text, one after the other."""
    network = networks.load(folder)
    ids = torch.tensor([[*TOKENIZER.encode(words), TOKENIZER.special["<|end|>"]]])
    wanted = network.encode_text(ids)[0]
    pixels = [to_tensor(one)[None] for one in pictures]
    if pixels[0].shape[-1] != SIDE:
        pixels = [torch.nn.functional.interpolate(one, (SIDE, SIDE), mode="bicubic", antialias=True) for one in pixels]
    return [float(network.encode_image(one.clamp(-1, 1))[0] @ wanted) for one in pixels]


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


@pytest.fixture(scope="module")
def larger(root):
    return polytask.load(root / "larger")


@pytest.mark.parametrize(
    ("augmentation", "levels"),
    [
        ([0.0, 0.6, 1.0], (0.0, 0.6, 1.0)),
        ("search", SEARCHED),
        ("0,0.6,1", (0.0, 0.6, 1.0)),
    ],
)
def test_levels_of_augmentation_are_tried_for_every_picture(augmentation, levels, larger, root):
    words = {"n": 2, "seed": 5, **FEW}
    found = larger.draw("a red one", augmentation=augmentation, clip=root / "clip", **words)
    tried = [larger.draw("a red one", augmentation=level, **words) for level in levels]
    chosen = set()
    for number, one in enumerate(found):
        own = [pictures[number] for pictures in tried]
        scores = fits(root / "clip", own, "a red one")
        chosen.add(scores.index(max(scores)))
        assert one.tobytes() == own[scores.index(max(scores))].tobytes()
    assert chosen - {len(levels) - 1}  # not simply the last


def test_levels_and_candidates_go_together(larger, root):
    words = {"seed": 5, "augmentation": [0.0, 1.0], "clip": root / "clip", **FEW}
    (found,) = larger.draw("a red one", candidates=3, **words)
    every = larger.draw("a red one", n=3, **words)
    scores = fits(root / "clip", every, "a red one")
    assert found.tobytes() == every[scores.index(max(scores))].tobytes()
    mask = picture(0, 16).convert("L").point(lambda value: 255)
    assert len(larger.edit(picture(1, 16), "a red one", mask, **words)) == 1


@pytest.mark.parametrize(("augmentation", "sentence"), [
    ([0.0, 1.5], "augmentation=1.5 must be a number from 0 to 1"), ("serch", "several of them, or 'search'"),
    ("0.1,x", "several of them, or 'search'"),
    ([], "several of them"), ("search", "holds no CLIP to choose by"),
])  # fmt: skip
def test_mistakes_of_levels_are_named(augmentation, sentence, larger):
    with pytest.raises(ConfigError, match=sentence):
        larger.draw("red", augmentation=augmentation, steps=1)


@pytest.mark.parametrize(("words", "sentence"), [
    ({"candidates": 4}, "holds no CLIP to choose by"), ({"clip": "clip"}, "say how many"),
    ({"candidates": 1, "n": 2, "clip": "clip"}, "candidates=1 must be a whole number of at least n=2"),
    ({"augmentation": "search", "clip": "clip"}, "of a model that enlarges"),
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
    given = ["draw", root / "larger", "red", "--steps", 2, "--augmentation", "0,0.5", "--clip", root / "clip"]
    assert CliRunner().invoke(app, [str(word) for word in [*given, "--out", tmp_path]]).exit_code == 0
    wrong = draw("--temperature", 0.5)
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("Error: --temperature: ")
    assert "draws by diffusion" in wrong.stderr
