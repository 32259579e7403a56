"""Classifiers of pictures: trained by the one trainer, asked, and judges of what is drawn by label."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

import polytask
from polytask.cli.main import app
from polytask.data.pictures import PictureBatch
from polytask.errors import Error
from polytask.models import built
from polytask.models.classifier import Classifier
from polytask.pictures import PictureModel
from polytask.run.assembly import read_recipe
from polytask.run.evaluate import evaluate
from polytask.run.train import train_recipe
from polytask.systems.classifier import classifier
from polytask.tasks.picture import decode, png
from polytask.training.objectives.classifying import Classifying
from tests.painters import write_clip

SIDE, LABELS = 12, ["bottom", "left", "top"]
QUICK = ["training.warmup=1", "training.batch_rows=12", "evaluation.every=0", "data.sources.0.validation=null"]
SIZES = {
    "judge": ["digits-classifier", f"model.image={SIDE}", "model.width=8", "model.blocks=1", "training.steps=25",
              "training.lr=1e-2"],
    "larger": ["digits-classifier", "model.image=16", "model.width=8", "model.blocks=1", "training.steps=1"],
    "drawer": ["mnist-digits", f"model.pixels={SIDE}", "model.multipliers=[1]", "model.attention=[]",
               "training.steps=1"],
}  # fmt: skip


def half(label, seed):
    """A noisy picture that is dark at one side."""
    levels = np.random.default_rng(seed).integers(150, 250, (SIDE, SIDE, 3), dtype=np.uint8)
    side = {"bottom": np.s_[SIDE // 2 :], "left": np.s_[:, : SIDE // 2], "top": np.s_[: SIDE // 2]}[label]
    levels[side] //= 4
    return Image.fromarray(levels)


def write_halves(folder, name, count, first, labels=LABELS):
    rows = []
    for number in range(count):
        label = labels[number % len(labels)]
        (folder / f"{first + number}.png").write_bytes(png(half(LABELS[number % 3], first + number)))
        rows.append(json.dumps({"image": f"{first + number}.png", "label": label}))
    (folder / name).write_text("\n".join(rows))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    data, other = root / "data", root / "other"
    for folder in (data, other):
        folder.mkdir()
    write_halves(data, "train.jsonl", 36, 0)
    write_halves(data, "validation.jsonl", 12, 100)
    write_halves(other, "train.jsonl", 12, 0, labels=["a", "b", "c"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYTASK_CACHE", str(root / "cache"))
        for name, (recipe, *changes) in SIZES.items():
            made = read_recipe(recipe, [*QUICK, *changes, "data.sources.0.from=train.jsonl"], data)
            train_recipe(made, root / name, callbacks=[])
        recipe, *changes = SIZES["judge"]
        made = read_recipe(recipe, [*QUICK, *changes, "training.steps=1", "data.sources.0.from=train.jsonl"], other)
        train_recipe(made, root / "stranger", callbacks=[])
    return root


def test_the_network_is_the_formula_that_it_states():
    torch.manual_seed(0)
    network = classifier(SIDE, 16, 1, classes=5).build().initialize(3).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    state = network.state_dict()

    def norm(name, x):
        return F.silu(F.group_norm(x, 8, state[f"{name}.weight"], state[f"{name}.bias"]))

    def conv(name, x, stride=1):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], stride, weight.shape[-1] // 2)

    pixels = torch.rand(4, 3, SIDE, SIDE) * 2 - 1
    x = conv("first", pixels)
    for number, stride in enumerate((1, 2, 2)):
        block = f"blocks.{number}"
        active = norm(f"{block}.norm", x)
        inner = norm(f"{block}.inner_norm", conv(f"{block}.inner", active, stride))
        x = (conv(f"{block}.shortcut", active, stride) if number else x) + conv(f"{block}.outer", inner)
    seen = norm("norm", x).mean((2, 3))
    with torch.no_grad():
        torch.testing.assert_close(network.features(pixels), seen, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(network(pixels), seen @ state["head.weight"].T + state["head.bias"])


def test_the_published_size_has_the_published_count():
    assert built.parameters(classifier(32, 16, 3)) == pytest.approx(0.27e6, rel=0.03)  # He et al. 2016, table 6


class Shown(Classifier):
    """Keeps what it is given and says the same of every picture."""

    def __init__(self):
        torch.nn.Module.__init__(self)

    def forward(self, pixels):
        self.pixels = pixels
        return torch.arange(3.0).expand(len(pixels), 3)


def batch(count, labels):
    pixels = torch.rand(count, 3, SIDE, SIDE) * 2 - 1
    empty = torch.zeros(count, 0, dtype=torch.int64)
    return PictureBatch(pixels, empty, empty.bool(), torch.tensor(labels), torch.zeros(count, dtype=torch.int64))


def test_the_loss_is_of_labelled_pictures():
    given, shown = batch(4, [2, -1, 0, 1]), Shown().eval()
    found = Classifying(shift=2, flip=True, smoothing=0.1).loss(shown, given)
    expected = F.cross_entropy(torch.arange(3.0).expand(3, 3), torch.tensor([2, 0, 1]), reduction="sum")
    assert float(found.sum) == pytest.approx(float(expected))
    assert (float(found.weight), float(found.log["accuracy"])) == (3, 1)
    assert torch.equal(shown.pixels, given.pixels[[0, 2, 3]])  # nothing is moved in evaluation


def test_pictures_are_moved_and_mirrored_in_training():
    given, shown = batch(64, [0] * 64), Shown().train()
    Classifying(shift=2, flip=True).loss(shown, given)
    wide = F.pad(given.pixels, (2, 2, 2, 2), mode="replicate")
    found = set()
    for number, picture in enumerate(shown.pixels):
        for mirrored in (False, True):
            for x in range(5):
                for y in range(5):
                    part = wide[number, :, y : y + SIDE, x : x + SIDE]
                    if torch.equal(part.flip(-1) if mirrored else part, picture):
                        found.add((number, mirrored, x, y))
    assert {number for number, *_ in found} == set(range(64))  # each is such a part, and all kinds occur
    assert [len({one[place] for one in found}) for place in (1, 2, 3)] == [2, 5, 5]


def test_it_is_asked(runs):
    model = polytask.load(runs / "judge")
    assert model.labels == LABELS
    for label in LABELS:
        image = half(label, 999)
        assert model.classify(image) == label
        shares = model.probabilities([image])[0]
        assert sum(shares.values()) == pytest.approx(1)
        two = model.probabilities([image], LABELS[:2])[0]
        assert two["left"] / two["bottom"] == pytest.approx(shares["left"] / shares["bottom"], rel=1e-4)
    assert model.features([image, image]).shape == (2, 32)
    half("left", 5).save(runs / "left.png")
    words = ["classify", str(runs / "judge"), "--image", str(runs / "left.png")]
    assert CliRunner().invoke(app, words).stdout.strip() == "left"
    assert set(json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["probabilities"]) == set(LABELS)
    report = evaluate(str(runs / "judge"), "classification", str(runs / "data"), {}, {})
    assert (report.examples, report.metrics["accuracy"]) == (12, 1.0)


def likeness(runs, judge="judge", data="data", **words):
    where = str(runs / data)
    return evaluate(str(runs / "drawer"), "drawing", where, {}, {}, judge=str(runs / judge), **words)


def test_drawings_are_judged_beside_real_pictures(runs, monkeypatch):
    made = likeness(runs, drawing={"steps": 1})
    assert made.examples == 12
    assert made.metrics["accuracy, real"] == 1
    assert made.metrics["frechet_distance"] > 2 * made.metrics["frechet_distance, real"]  # one step teaches nobody
    assert "12 pictures were drawn, and 12 real ones held out" in made.notes[0]
    train = [json.loads(line) for line in (runs / "data" / "train.jsonl").read_text().splitlines()]

    def copied(self, prompts, **words):
        return [[decode((runs / "data" / train[LABELS.index(one)]["image"]).read_bytes())] for one in prompts]

    monkeypatch.setattr(PictureModel, "draw_many", copied)
    learnt = likeness(runs)
    assert (learnt.metrics["accuracy"], learnt.metrics["precision"]) == (1, 1)
    assert learnt.metrics["recall"] < learnt.metrics["recall, real"]  # three pictures, drawn again and again
    monkeypatch.setattr(PictureModel, "draw_many", lambda self, prompts, **_: [[half("top", 1)] for _ in prompts])
    assert likeness(runs).metrics["accuracy"] == pytest.approx(1 / 3)


def test_a_clip_judges_too(runs):
    write_clip(runs / "clip", side=SIDE)
    found = likeness(runs, "clip", drawing={"steps": 1}).metrics
    assert {"clip_score", "clip_score, real", "frechet_distance", "frechet_distance, real"} < set(found)
    assert "accuracy" not in found


@pytest.mark.parametrize(("words", "sentence"), [
    ({"judge": "larger"}, r"it reads pictures of 16 pixels a side, and .*draws 12"),
    ({"judge": "stranger"}, r"knows the labels a, b, c, and not 'bottom'"),
    ({"judge": "drawer"}, "neither a classifier of pictures nor a CLIP"),
    ({"data": "data/train.jsonl"}, "no pictures held out beside those for training"),
])  # fmt: skip
def test_mistakes_of_judging_are_named(words, sentence, runs):
    with pytest.raises(Error, match=sentence):
        likeness(runs, **words)


def test_mistakes_of_asking_are_named(runs):
    judge = polytask.load(runs / "judge")
    for ask, sentence in (
        (lambda: judge.probabilities([half("top", 1)], ["rigth"]), "not trained on the label 'rigth'"),
        (lambda: judge.produce([]), "writes nothing"),
        (lambda: PictureModel.load(runs / "judge"), "holds a classifier, which alone draws nothing"),
        (lambda: polytask.PictureClassifier.load(runs / "drawer"), "holds no classifier"),
        (lambda: evaluate(str(runs / "judge"), "drawing", "blocksworld", {}, {}), "judged by task classification"),
        (lambda: evaluate(str(runs / "judge"), "classification", "blocksworld", {}, {}, judge="x"), "--judge: "),
        (lambda: evaluate(str(runs / "judge"), "classification", str(runs / "other"), {}, {}), "not one of the labels"),
    ):
        with pytest.raises(Error, match=sentence):
            ask()
