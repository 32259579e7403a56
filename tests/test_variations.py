"""What a model that draws CLIP's embeddings does to pictures: noise and embeddings that are interpolated and turned."""

import pytest
import torch

import polytask
from polytask.diffusion.process import spherical
from polytask.errors import ConfigError, TaskError
from polytask.tasks.picture import to_tensor
from tests.painters import SIDE, picture, write_unclip

MANY = {"steps": 40, "guidance": 1.0, "threshold": "none"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_unclip(tmp_path_factory.mktemp("unclip"))


@pytest.fixture(scope="module")
def model(folder):
    return polytask.load(folder / "decoder")


def gap(one, other):
    return float((to_tensor(one) - to_tensor(other)).abs().mean())


@pytest.fixture
def drawn(model):
    """The embeddings and the first noise of every picture that is drawn, not of those whose noise is looked for."""
    seen = []

    def note(requests):
        seen.extend((one.condition.pooled[0], one.noise) for one in requests if one.inverted is None)
        return run(requests)

    run, model.painter.engine.run = model.painter.engine.run, note
    yield seen
    model.painter.engine.run = run


def angle(one, other):
    return float(torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0).clamp(-1, 1).acos())


def test_arcs_turn_evenly_and_lengths_go_evenly():
    one, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    expected = 3 * torch.tensor([[0.5, 3**0.5 / 2]])  # two thirds of a right angle
    torch.testing.assert_close(spherical(one, other, 2 / 3), expected * (2 + 2 * 2 / 3) / 3)
    torch.testing.assert_close(spherical(one, one, 0.3), one)
    noise = torch.randn(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert float(spherical(noise[0], noise[1], 0.5).std()) == pytest.approx(1, abs=0.03)


def test_interpolation_goes_from_the_one_picture_to_the_other(model, drawn):
    first, second = picture(0), picture(1)
    way = model.interpolate(first, second, n=5, **MANY)
    assert gap(way[0], first) < 0.02 > gap(way[-1], second)
    assert gap(way[2], first) > 0.1 < gap(way[2], second)
    for part in (0, 1):  # of embeddings, of noise
        whole = angle(drawn[0][part], drawn[-1][part])
        for number, one in enumerate(drawn):
            assert angle(drawn[0][part], one[part]) == pytest.approx(number / 4 * whole, abs=2e-3)


def test_without_details_one_noise_is_used(model, drawn):
    first, second = picture(0), picture(1)
    one, other = model.interpolate(first, second, n=2, steps=4, details=False, seed=3)
    assert all(noise is None for _, noise in drawn)
    same = model.interpolate(first, first, n=2, steps=4, details=False, seed=3)
    assert same[0].tobytes() == same[1].tobytes() == one.tobytes() != other.tobytes()


def test_a_difference_of_captions_turns_the_picture(model, drawn):
    given = picture(2)
    turned = model.difference(given, "a red circle", "a blue one", n=3, theta=0.4, **MANY)
    matcher = model.painter.matcher
    one, other = matcher.embed_texts(["a red circle", "a blue one"])
    whole = angle(drawn[0][0], other - one)
    assert [angle(drawn[0][0], each[0]) for each in drawn] == pytest.approx([0, 0.2 * whole, 0.4 * whole], abs=2e-3)
    assert angle(drawn[2][0], other - one) == pytest.approx(0.6 * whole, abs=2e-3)
    assert gap(turned[0], given) < 0.02 < gap(turned[2], given)
    (far,) = model.difference(given, "a red circle", "a blue one", n=1, theta=0.4, **MANY)
    assert far.tobytes() == turned[2].tobytes()


def test_variations_keep_what_is_not_in_the_embedding(model):
    given, words = picture(3), MANY
    (back,) = model.variations(given, details=True, eta=0.0, **words)
    assert gap(back, given) < 0.02
    near, other = model.variations(given, n=2, details=True, eta=0.3, **words)
    assert near.tobytes() != other.tobytes()
    fresh = model.variations(given, n=2, **words)
    assert max(gap(near, given), gap(other, given)) < min(gap(one, given) for one in fresh)


def test_what_enlarges_does_so_on_the_way(folder):
    model = polytask.load(folder / "larger")
    way = model.interpolate(picture(0, 2 * SIDE), picture(1, 2 * SIDE), n=3, steps=4)
    assert [one.size for one in way] == [(2 * SIDE, 2 * SIDE)] * 3
    assert len({one.tobytes() for one in way}) == 3
    assert len(model.variations(picture(0), n=2, steps=4, details=True)) == 2


@pytest.mark.parametrize(("ask", "error", "sentence"), [
    (lambda m: m.interpolate(picture(0), picture(1), n=1), ConfigError, "at least both ends"),
    (lambda m: m.difference(picture(0), "one", "one"), TaskError, "are the same to CLIP"),
    (lambda m: m.difference(picture(0), "one", "two", theta=1.5), ConfigError, "theta=1.5 must be a number from 0"),
    (lambda m: m.variations(picture(0), eta=2.0), ConfigError, "eta=2.0 must be a number from 0 to 1"),
    (lambda m: m.variations(picture(0), eta=0.5, sampler="heun"), ConfigError, "heun adds no noise"),
    (lambda m: m.variations(picture(0), details=True, sampler="heun"), ConfigError, "differ by eta"),
    (lambda m: m.difference(picture(0), "a " * 60, "b"), polytask.Error, "this CLIP reads 23"),
])  # fmt: skip
def test_mistakes_are_named(ask, error, sentence, model):
    with pytest.raises(error, match=sentence):
        ask(model)


def test_the_command_line(folder, tmp_path):
    from typer.testing import CliRunner

    from polytask.cli.main import app

    files = []
    for number in (0, 1):
        files.append(tmp_path / f"{number}.png")
        picture(number).save(files[-1])

    def variations(*words):
        given = ["variations", folder / "decoder", files[0], "--out", tmp_path / "out", "--steps", 3, *words]
        return CliRunner().invoke(app, [str(word) for word in given])

    assert len(variations("--towards", files[1], "--n", 3).stdout.split()) == 4  # and a contact sheet
    assert len(variations("--from", "one", "--to", "two", "--n", 2, "--theta", 0.3).stdout.split()) == 3
    assert len(variations("--details", "--eta", 0.4).stdout.split()) == 1
    for words, sentence in (
        (["--from", "one"], "--from and --to go together"),
        (["--towards", files[1], "--from", "one", "--to", "two"], "exclude each other"),
        (["--theta", "0.4"], "--theta is of --from and --to"),
    ):
        result = variations(*words)
        assert result.exit_code == 2
        assert sentence in result.stderr
