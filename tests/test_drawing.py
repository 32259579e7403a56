"""How a model draws: what is said, what its folder says, stage by stage, and what it refuses in one sentence."""

import json

import pytest
import torch
from PIL import Image

import polytask
from polytask.errors import CheckpointError, ConfigError, TaskError
from tests.painters import SIDE, picture, write_captioned, write_unclip

OWN = {"guidance": 1.5, "sampler": "dpm_solver", "steps": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_captioned(tmp_path_factory.mktemp("own"), OWN, {"steps": 3, "augmentation": 0.4})


@pytest.fixture(scope="module")
def model(root):
    return polytask.load(root / "base")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same networks, whose folders say nothing."""
    return polytask.load(write_captioned(tmp_path_factory.mktemp("plain")) / "base")


def same(some, others):
    return [one.tobytes() for one in some] == [one.tobytes() for one in others]


def asked(painter, draw):
    """The requests of a painter's own network while `draw` runs."""
    seen, run = [], painter.engine.run
    painter.engine.run = lambda requests: seen.extend(requests) or run(requests)
    try:
        draw()
    finally:
        painter.engine.run = run
    return seen


def test_a_model_draws_as_its_folder_says_unless_asked_otherwise(model, plain):
    drawn = model.draw("a red one", seed=2)
    assert same(drawn, plain.draw("a red one", seed=2, **OWN))
    assert not same(drawn, plain.draw("a red one", seed=2))
    assert same(model.draw("a red one", guidance=3.0), plain.draw("a red one", **OWN | {"guidance": 3.0}))


def test_what_was_chosen_for_a_sampler_goes_with_it(model):
    assert vars(model.wish({})) == vars(model.wish(OWN))
    other = model.wish({"sampler": "heun"})
    assert (other.steps, other.guidance) == (50, 1.5)
    noisy = model.wish({"eta": 0.3})  # dpm_solver adds none
    assert (noisy.sampler, noisy.steps, noisy.guidance) == ("ddim", 50, 1.5)
    assert model.wish({"sampler": "dpm_solver", "guidance": 2.0}).steps == 4


def test_every_stage_has_its_own(root):
    larger = polytask.load(root / "larger")
    (own,) = asked(larger.painter, lambda: larger.draw("a red one"))
    (below,) = asked(larger.painter.base, lambda: larger.draw("a red one"))
    assert (own.steps, own.sampler, own.augmentation) == (3, "ddim", 0.4)
    assert (below.steps, below.sampler, below.guidance) == (4, "dpm_solver", 1.5)
    (below,) = asked(larger.painter.base, lambda: larger.draw("a red one", steps=2, sampler="euler"))
    assert (below.steps, below.sampler) == (2, "euler")
    told = larger.told({"n": 2})
    assert (told["steps"], told["n"], told["base"][0]["sampler"]) == (3, 2, "dpm_solver")


def test_dials_reach_the_engine(model):
    words = {"sampler": "ddpm", "spacing": "karras", "gamma": 0.3, "threshold": "dynamic", "percentile": 0.7}
    (request,) = asked(model.painter, lambda: model.draw("red", steps=5, **words))
    assert {name: getattr(request, name) for name in words} == words
    by = lambda **words: model.draw("red", steps=5, seed=1, **words)  # noqa: E731
    assert not same(by(sampler="euler"), by(sampler="euler", spacing="karras"))
    assert not same(by(sampler="ddpm", gamma=0.0), by(sampler="ddpm", gamma=1.0))
    strong = {"guidance": 20.0, "sampler": "ddim", "threshold": "dynamic"}
    assert not same(by(**strong, percentile=0.5), by(**strong))
    assert not same(by(**strong | {"threshold": "none"}), by(**strong))


@pytest.mark.parametrize(("words", "sentence"), [
    ({"spacing": "karas"}, "did you mean 'karras'"), ({"gamma": 0.5}, "gamma is of ddpm"),
    ({"gamma": 2, "sampler": "ddpm"}, "gamma=2 must be a number from 0 to 1"),
    ({"percentile": 0.9}, "of the dynamic threshold"), ({"threshold": None}, "did you mean 'none'"),
    ({"threshold": "dynamic", "percentile": 0}, "above 0"), ({"steps": 2000}, "from 1 to 1000"),
    ({"prior_steps": 3}, "of a model with a prior"), ({"augmentation": 0.2}, "of a model that enlarges"),
])  # fmt: skip
def test_mistakes_name_the_dial(words, sentence, model):
    with pytest.raises(ConfigError, match=sentence) as error:
        model.draw("red", **words)
    assert error.value.field in words


@pytest.mark.parametrize("about", [{"drawing": {"stpes": 3}}, {"drawing": {"n": 3}}, {"drawing": {"eta": 3}}])
def test_a_folder_that_says_nonsense_names_its_file(about, root, tmp_path):
    from shutil import copytree

    folder = copytree(root / "base", tmp_path / "base")
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | {"about": said["about"] | about}))
    with pytest.raises(CheckpointError, match=r"config\.json: drawing: "):
        polytask.load(folder, check=False)


def test_a_pictures_own_noise_is_drawn_from_as_it_was_found(tmp_path):
    """By DDIM, whatever the folder says of fresh noise."""
    model = polytask.load(write_unclip(tmp_path, OWN) / "decoder")
    given = picture(0)
    (request,) = [
        one for one in asked(model.painter, lambda: model.variations(given, details=True)) if one.noise is not None
    ]
    assert (request.sampler, request.eta, request.steps, request.guidance) == ("ddim", 0.5, 50, 1.5)
    (fresh,) = asked(model.painter, lambda: model.variations(given))
    assert (fresh.sampler, fresh.steps) == ("dpm_solver", 4)
    way = model.interpolate(given, picture(1), n=2, guidance=1.0, threshold="none")
    gap = (torch.tensor(list(way[0].tobytes())) - torch.tensor(list(given.tobytes()))).abs().float().mean()
    assert gap < 3


def test_pictures_are_given_by_their_paths(model, tmp_path):
    given, mask = picture(0), Image.new("L", (SIDE, SIDE), 255)
    given.save(tmp_path / "picture.png")
    mask.save(tmp_path / "mask.png")
    paths = str(tmp_path / "picture.png"), "a red one", str(tmp_path / "mask.png")
    assert same(model.edit(*paths), model.edit(given, "a red one", mask))
    with pytest.raises(TaskError, match=r"no\.png: the picture cannot be read"):
        model.edit("no.png", "a red one", mask)


@pytest.mark.parametrize(("ask", "sentence"), [
    (lambda m: m.draw(""), "The prompt is empty"), (lambda m: m.draw(" \n"), "The prompt is empty"),
    (lambda m: m.draw(3), "The prompt is a text, not int 3"),
    (lambda m: m.edit(picture(0), "", picture(1)), "The prompt is empty"),
    (lambda m: m.caption("x.png"), "neither reads them nor writes"),
    (lambda m: m.answer("how many?", image="x.png"), "neither reads them nor writes"),
    (lambda m: m.variations(picture(0)), "system dalle2"),
])  # fmt: skip
def test_what_cannot_be_asked_is_one_sentence(ask, sentence, model):
    with pytest.raises(TaskError, match=sentence):
        ask(model)
