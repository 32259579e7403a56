"""One decoder over texts and pictures: recipes, training, verbs and reports."""

import json
import shutil

import PIL.Image
import pytest
import torch

import polytask as pt
from polytask.blocksworld.generate import example
from polytask.errors import ConfigError, TaskError
from polytask.inference.sampling import Sampling
from polytask.interop import networks
from polytask.models.clip import CLIP
from polytask.models.dvae import Autoencoder, AutoencoderConfig
from polytask.nn.quantizer import FiniteScalar
from polytask.run import likeness
from polytask.run.evaluate import evaluate
from polytask.systems.classifier import classifier
from polytask.systems.clip import clip, vit
from polytask.tasks import get_task, prompt
from polytask.tasks.picture import decode, to_tensor
from polytask.tasks.segment import Text
from tests.inference.networks import TOKENIZER, network

RECIPE = """
model: {{system: generalist, depth: 2, dim: 64, heads: 2}}
tokenizer: {{kind: bytes, pictures: {{from: {codes}}}}}
data:
  sources:
    - {{task: drawing, from: blocksworld, limit: 30}}
    - {{task: captioning, from: blocksworld, limit: 30}}
    - {{task: editing, from: blocksworld, limit: 30}}
    - {{task: answering, from: blocksworld, limit: 30, options: {{pixels: 32}}}}
    - {{task: summarization, from: blocksworld, limit: 30}}
training: {{steps: 2, batch_rows: 4, context_length: 384}}
evaluation:
  every: 2
  samples: 1
  tasks: [{{task: editing, from: blocksworld, limit: 2, metric: right}}]
"""


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    config = AutoencoderConfig(image=32, width=8, quantizer=FiniteScalar((4, 4)), groups=3, blocks=1, first=8)
    folder = tmp_path_factory.mktemp("codes") / "network"
    networks.save(folder, Autoencoder(config).initialize(0))
    return folder


@pytest.fixture(scope="module")
def made(train_of, codes):
    return train_of(RECIPE.format(codes=codes))


@pytest.fixture(scope="module")
def model(made):
    return pt.load(made[0])


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    file = tmp_path_factory.mktemp("picture") / "scene.png"
    file.write_bytes(example("captioning", 0)["image"])
    return file


@pytest.mark.parametrize("name", ["dalle-blocks", "multimodal-blocks"])
def test_shipped_recipes_train(polytask, codes, name, tmp_path):
    few = "[{task: drawing, from: blocksworld, limit: 60}]"
    small = [
        "data.mixture={by: weight}",
        "model.dim=32",
        "model.heads=2",
        "tokenizer.rows=60",
        f"data.sources={few}",
        "training.batch_rows=4",
    ]
    depth = "model.layers=4" if name == "dalle-blocks" else "model.depth=2"
    changes = ["--set", f"tokenizer.pictures.from={codes}", depth, *small, "training.steps=2", "training.warmup=0"]
    planned = polytask("plan", name, *changes, "--no-measure", "--json")
    assert planned.exit_code == 0, planned.stderr
    result = polytask("train", name, *changes, "evaluation.every=0", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    shown = json.loads(polytask("show", tmp_path / "run", "--json").stdout)
    assert shown["tasks"] == ["drawing"]
    (drawn,) = pt.load(tmp_path / "run").draw("a small red circle")
    assert (drawn.size, drawn.mode) == ((32, 32), "RGB")


def test_a_run_with_pictures_says_what_it_reached(made):
    _, printed = made
    assert "editing/right" in printed
    assert "[picture] Edit: " in printed
    assert printed.count("→ [picture]") == 1


def test_a_checkpoint_keeps_the_network_of_its_codes(made, codes, model):
    own = networks.load(codes)
    kept = model.tokenizer.pictures.autoencoder
    assert kept.config == own.config
    assert all(kept.state_dict()[name].equal(tensor) for name, tensor in own.state_dict().items())
    assert model.info["vocab_size"] == model.config.vocab_size


def test_texts_and_pictures_are_answered_in_one_batch(model):
    row = example("captioning", 0)
    prompts = [
        prompt(get_task("captioning"), {"image": row["image"]}),
        prompt(get_task("drawing"), {"caption": "a red circle"}),
        [Text("a red", target=True)],
        prompt(get_task("editing"), {"image": row["image"], "instruction": "remove all"}),
    ]
    sampling = Sampling(max_tokens=9, temperature=1.0, seed=5)
    together = [one for (one,) in model.produce(prompts, sampling)]
    assert [one.ids for one in together] == [model.produce([asked], sampling)[0][0].ids for asked in prompts]
    first = model.tokenizer.pictures.vocabulary.first
    assert [one.picture is not None for one in together] == [False, True, False, True]
    assert all(min(one.ids) >= first and len(one.ids) == 64 for one in together if one.picture)
    assert all(max(one.ids, default=0) < first for one in together if not one.picture)


def test_pictures_are_drawn_edited_described(model, picture):
    image = PIL.Image.open(picture)
    several = model.draw("a red circle", n=3, seed=1)
    assert [one.size for one in several] == [(32, 32)] * 3
    assert [one.tobytes() for one in model.draw("a red circle", n=3, seed=1)] == [one.tobytes() for one in several]
    assert model.draw("a red circle")[0].tobytes() == model.draw("a red circle", top_k=1, seed=4)[0].tobytes()
    (edited,) = model.edit(image, "remove the circle")
    assert edited.size == (32, 32)
    assert model.edit(str(picture), "remove the circle")[0].tobytes() == edited.tobytes()
    large = image.resize((48, 40))
    assert model.edit(large, "remove the circle", resize=True)[0].size == (32, 32)
    assert model.caption(str(picture), max_tokens=5) == model.caption(picture, max_tokens=5)
    assert isinstance(model.answer("how many circles?", image=image, max_tokens=5), str)


def test_a_picture_is_completed(model, picture):
    """What is beyond the reach of the codes that were drawn stays."""
    pictures = model.tokenizer.pictures
    kept = pictures.read([picture.read_bytes()])[0]
    (drawn,) = model.draw("a red circle", upper=picture, rows=7, seed=2)
    before, after = (to_tensor(one)[:, :7] for one in (decode(pictures.drawn([kept])[0]), drawn))
    torch.testing.assert_close(after, before, rtol=0, atol=1 / 127)
    assert len(model.draw("a red circle", n=2, upper=picture)) == 2


@pytest.fixture(scope="module")
def chooser(tmp_path_factory):
    """The folder of a CLIP."""
    config = clip(vit(32, 8, 1, 64), 16, text_layers=1, text_dim=64, vocab_size=TOKENIZER.vocab_size, context_length=16)
    folder = tmp_path_factory.mktemp("chooser") / "clip"
    networks.save(folder, CLIP(config).initialize(0))
    TOKENIZER.save(folder)
    return folder


def test_a_clip_takes_the_best(model, chooser):
    ranked = model.draw("red", n=2, seed=3, candidates=6, clip=chooser)
    every = {one.tobytes() for one in model.draw("red", n=6, seed=3)}
    assert len(ranked) == 2
    assert {one.tobytes() for one in ranked} <= every


def test_the_best_by_a_clip_is_judged(polytask, made, chooser):
    ranking = ("--candidates", 3, "--clip", chooser, "--json")
    result = polytask("eval", made[0], "--task", "drawing", "--data", "blocksworld", "--limit", 2, *ranking)
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)["reproduce"]
    assert (said["candidates"], len(said["clip"])) == (3, 64)
    refused = polytask("eval", made[0], "--task", "captioning", "--data", "blocksworld", *ranking)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "it is of drawings that a rule judges" in refused.stderr
    with pytest.raises(ConfigError, match="leave out n"):
        evaluate(str(made[0]), "drawing", "blocksworld", {}, {}, limit=2, sampling={"n": 2})


def test_pictures_are_drawn_by_the_verbs_of_pictures(polytask, made, picture, tmp_path):
    out = tmp_path / "drawn"
    kept = polytask("draw", made[0], "a red circle", "--seed", 2, "--upper", picture, "--rows", 7, "--out", out)
    assert kept.stdout.split() == [str(out / "1.png")]
    model = pt.load(made[0])
    assert (
        PIL.Image.open(out / "1.png").tobytes()
        == model.draw("a red circle", seed=2, upper=picture, rows=7)[0].tobytes()
    )
    assert polytask("edit", made[0], picture, "remove the circle", "--out", out).stdout.split() == [str(out / "2.png")]
    large = tmp_path / "large.png"
    PIL.Image.open(picture).resize((48, 40)).save(large)
    for words in (["edit", made[0], large, "remove it"], ["draw", made[0], "red", "--upper", large]):
        assert "48 x 40 pixels" in polytask(*words, "--out", out).stderr
        assert polytask(*words, "--resize", "--out", out).exit_code == 0
    for words, sentence in (
        (["draw", made[0], "red", "--steps", 5], "--steps: "),
        (["edit", made[0], picture, "remove it", "--mask", picture], "leave the mask out"),
        (["draw", made[0], "red", "--n", 100_000], "n=100000 must be between 1 and 65536"),
        (["draw", made[0], " "], "The prompt is empty"),
        (["variations", made[0], picture], "draws token by token"),
    ):
        result = polytask(*words, "--out", out)
        assert result.exit_code == 2
        assert sentence in result.stderr


def test_verbs_read_and_write_files(polytask, made, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, _ = made
    for number in (1, 2):
        result = polytask("ask", run, "drawing", "--caption", "a red circle")
        assert result.stdout.strip() == f"drawing-{number}.png", result.stderr
    assert PIL.Image.open("drawing-2.png").size == (32, 32)
    for words in (["caption", run, picture], ["answer", run, "how many circles?", "--image", picture]):
        result = polytask(*words, "--max-tokens", 4)
        assert result.exit_code == 0, result.stderr
    said = json.loads(polytask("ask", run, "editing", "--image", picture, "--instruction", "x", "--json").stdout)
    assert said["answer"].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda m: m.draw("red", candidates=4), ConfigError, "go together"),
        (lambda m: m.draw("red", rows=4), ConfigError, "upper"),
        (lambda m: m.draw("red", n=2, upper=example("captioning", 0)["image"], rows=8), ConfigError, "1 to 7"),
        (lambda m: m.draw("red", temperatur=1), ConfigError, "temperature"),
        (lambda m: m.draw("red " * 400), ConfigError, "picture of 64"),
        (lambda m: m.caption(b"no"), TaskError, "no picture"),
        (lambda m: m.caption("no.png"), TaskError, "no.png: the picture cannot be read"),
        (lambda m: m.ask("captioning", {"image": "no.png"}), TaskError, "pathlib.Path"),
        (lambda m: m.draw(" "), TaskError, "The prompt is empty"),
        (lambda m: m.draw(3), TaskError, "The prompt is a text, not int 3"),
        (lambda m: m.edit(PIL.Image.new("RGB", (9, 8)), "x"), TaskError, "The picture has 9 x 8 pixels"),
        (lambda m: m.draw("red", upper=PIL.Image.new("RGB", (9, 8))), TaskError, "The picture has 9 x 8 pixels"),
        (lambda m: m.draw("red", resize=True), ConfigError, "give it as `upper`"),
        (lambda m: m.variations("no.png"), TaskError, "draws token by token"),
    ],
)
def test_mistakes_are_one_sentence(model, ask, error, words):
    with pytest.raises(error, match=words):
        ask(model)


def test_models_of_texts_refuse_pictures():
    texts = pt.Model(network(), TOKENIZER)
    for ask in (lambda: texts.draw("red"), lambda: texts.caption(example("captioning", 0)["image"])):
        with pytest.raises(TaskError, match="text alone"):
            ask()


def test_recipes_that_do_not_fit_are_refused(polytask, codes, made, tmp_path):
    changes = [
        ["model={system: dalle, layers: 2, dim: 32, heads: 2}"],
        ["training.picture_share=1.5"],
        [f"model={{from: {made[0]}}}"],
        ["tokenizer.pictures.from=nowhere"],
    ]
    for change, words in zip(changes, ("go together", "picture_share", "no tokenizer but its own", "no checkpoint")):
        result = polytask("train", made[0].parent / "recipe.yaml", "--set", *change, "--out", tmp_path / "run")
        assert result.exit_code == 2
        assert words in result.stderr


def test_who_goes_on_from_a_model_and_resumes_still_draws(polytask, made, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        f"model: {{from: {made[0]}}}\ndata: {{sources: [{{task: drawing, from: blocksworld, limit: 30}}]}}\n"
        "training: {steps: 2, batch_rows: 4, context_length: 384, save_every: 1}\nevaluation: {every: 0}\n"
    )
    words = ("train", tmp_path / "mine.yaml", "--out", tmp_path / "run")
    assert polytask(*words).exit_code == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000002")
    resumed = polytask(*words, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    assert pt.load(tmp_path / "run").draw("a small red circle")[0].size == (32, 32)


@pytest.mark.parametrize("task", ["drawing", "captioning", "editing"])
def test_scenes_are_judged_by_their_number_of_objects(polytask, made, task):
    result = polytask(
        "eval", made[0], "--task", task, "--data", "blocksworld", "--limit", 2, "--max-tokens", 4, "--json"
    )
    report = json.loads(result.stdout)
    assert report["examples"] == 8
    groups = ("1 object", "2 objects", "3 objects", "held-out combinations")
    assert {f"right, {group}" for group in groups} < set(report["metrics"])
    assert report["metrics"]["right"] == 0  # two steps teach nobody


def test_who_says_what_a_picture_shows_is_judged_right(made, monkeypatch):
    """The world's own reader answers, but for scenes of two objects."""
    from polytask.blocksworld.captions import full, say
    from polytask.blocksworld.read import read

    def told(self, task, rows, **dials):
        assert all("caption" not in row for row in rows)
        scenes = [read(decode(row["image"])).scene or () for row in rows]
        return ["nothing" if len(scene) == 2 else say(full(scene)) for scene in scenes]

    monkeypatch.setattr(pt.Model, "ask_many", told)
    report = evaluate(str(made[0]), "captioning", "blocksworld", {}, {}, limit=4, split="validation")
    shares = {name: share for name, share in report.metrics.items() if name.startswith("right")}
    assert shares == pytest.approx({"right": 2 / 3, "right, 1 object": 1, "right, 2 objects": 0, "right, 3 objects": 1})


def test_many_pictures_of_a_seed_are_drawn_each_by_its_own(model):
    several = [pictures[0].tobytes() for pictures in model.draw_many(["red", "red", "blue"], seed=3)]
    assert several[0] == model.draw("red", seed=3)[0].tobytes()
    assert several[1] == model.draw("red", seed=4)[0].tobytes()
    assert several[0] != several[1]


def test_its_drawings_are_judged_beside_real_ones(polytask, made, chooser, monkeypatch):
    monkeypatch.setattr(likeness, "TRAINING", 8)
    words = ("--task", "drawing", "--data", "blocksworld", "--judge", chooser, "--limit", 4, "--json")
    first, again = (polytask("eval", made[0], *words) for _ in range(2))
    assert first.exit_code == 0, first.stderr
    report = json.loads(first.stdout)
    assert {"frechet_distance", "frechet_distance, real", "precision", "recall"} < set(report["metrics"])
    assert {"clip_score", "clip_score, real"} < set(report["metrics"])
    assert report["reproduce"]["sampling"]["temperature"] == 1
    assert "4 pictures were drawn" in report["notes"][0]
    assert json.loads(again.stdout)["metrics"] == report["metrics"]


def test_labels_that_are_captions_are_judged_by_a_classifier(made, tmp_path):
    labels = ["dark", "light"]
    for part, count in (("train", 8), ("validation", 6)):
        rows = []
        for number in range(count):
            name = f"{part}-{number}.png"
            PIL.Image.new("RGB", (32, 32), (30 * number,) * 3).save(tmp_path / name)
            rows.append(json.dumps({"image": name, "label": labels[number % 2]}))
        (tmp_path / f"{part}.jsonl").write_text("\n".join(rows))
    network = classifier(32, 8, 1, classes=2).build().initialize(0)
    networks.save(tmp_path / "judge", network, about={"labels": labels})
    report = evaluate(
        str(made[0]), "drawing", str(tmp_path), {"caption": "label"}, {}, judge=str(tmp_path / "judge"),
        sampling={"temperature": 0.0},
    )  # fmt: skip
    judge = pt.load(tmp_path / "judge")
    right = [judge.classify(tmp_path / f"validation-{i}.png") == labels[i % 2] for i in range(6)]
    assert report.metrics["accuracy, real"] == sum(right) / 6
    model = pt.load(made[0])
    right = [judge.classify(model.draw(label)[0]) == label for label in labels]
    assert report.metrics["accuracy"] == sum(right) / 2


@pytest.mark.parametrize(("words", "sentence"), [
    ({"drawing": {"steps": 4}}, "--steps: .* of models that draw by diffusion"),
    ({"sampling": {"n": 2}}, "leave out n"),
    ({"sampling": {"temperatur": 1.0}}, "temperature"),
    ({"judge": "pixels"}, "name the autoencoder of its pictures"),
    ({"shots": 2}, "without shots"),
    ({"task": "captioning"}, "by --task drawing"),
])  # fmt: skip
def test_mistakes_of_judging_are_named(made, chooser, words, sentence):
    task = words.get("task", "drawing")
    given = {"judge": str(chooser), **{name: value for name, value in words.items() if name != "task"}}
    with pytest.raises(ConfigError, match=sentence):
        evaluate(str(made[0]), task, "blocksworld", {}, {}, limit=4, **given)


def test_what_draws_nothing_is_not_judged_by_drawings(babbler, chooser):
    with pytest.raises(ConfigError, match="writes and draws none"):
        evaluate(str(babbler), "drawing", "blocksworld", {}, {}, judge=str(chooser))
