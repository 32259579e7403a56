"""A decoder that looks at pictures by itself: its recipe, training, verbs and reports."""

import json
import shutil

import PIL.Image
import pytest
import torch

import polytask as pt
from polytask.blocksworld.generate import example
from polytask.errors import ConfigError, TaskError, TokenizerError, TooLong
from polytask.inference.sampling import Sampling
from polytask.models import cost
from polytask.nn.cache import Context
from polytask.tasks import get_task, prompt
from polytask.tasks.segment import Image, Text

RECIPE = """
model: {system: vision-language, depth: 2, dim: 64, heads: 2, patch: 8, vision_layers: 1, vision_dim: 64}
tokenizer: {kind: bytes}
data:
  sources:
    - {task: captioning, from: blocksworld, limit: 30}
    - {task: answering, from: blocksworld, limit: 30, options: {pixels: 32}}
    - {task: summarization, from: blocksworld, limit: 30}
training: {steps: 4, batch_rows: 4, context_length: 256, save_every: 2}
evaluation:
  every: 2
  samples: 1
  tasks: [{task: captioning, from: blocksworld, limit: 2, metric: right}]
"""


@pytest.fixture(scope="module")
def made(train_of):
    return train_of(RECIPE)


@pytest.fixture(scope="module")
def model(made):
    return pt.load(made[0])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two different pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in (0, 1):
        (folder / f"{number}.png").write_bytes(example("captioning", number)["image"])
    return [folder / "0.png", folder / "1.png"]


def test_training_is_watched_and_resumed_to_the_same_weights(polytask, made, tmp_path):
    folder, printed = made
    assert "captioning/right" in printed
    words = ("train", folder.parent / "recipe.yaml", "--out", tmp_path / "again")
    assert polytask(*words).exit_code == 0
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "step-000004")
    resumed = polytask(*words, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    first, second = (pt.load(one).network.state_dict() for one in (folder, tmp_path / "again"))
    assert all(tensor.equal(second[name]) for name, tensor in first.items())


def test_the_shipped_recipe_is_planned_and_trained(polytask, tmp_path):
    small = [
        "model.depth=2", "model.dim=64", "model.heads=2", "model.vision_layers=1", "model.vision_dim=64",
        "tokenizer.rows=40", "data.sources.0.limit=40", "data.sources.1.limit=40", "training.batch_rows=4",
        "training.steps=2", "training.warmup=0", "evaluation.every=0",
    ]  # fmt: skip
    planned = polytask("plan", "vision-blocks", "--set", *small, "--no-measure", "--json")
    assert planned.exit_code == 0, planned.stderr
    parameters = json.loads(planned.stdout)["parameters"]
    assert {"vision", "projector"} < parameters.keys()
    assert polytask("train", "vision-blocks", "--set", *small, "--out", tmp_path / "run").exit_code == 0
    shown = json.loads(polytask("show", tmp_path / "run", "--json").stdout)
    assert shown["tasks"] == ["answering", "captioning"]
    assert "64 states a picture" in shown["architecture"]["vision"]
    assert shown["parameters"] == sum(p.numel() for p in pt.load(tmp_path / "run").network.parameters())


def test_costs_are_those_of_the_network(model):
    config = model.network.config
    counts = {
        part: sum(p.numel() for name, p in model.network.named_parameters() if name.startswith(prefixes))
        for part, prefixes in {"vision": "vision.", "projector": ("first.", "second.")}.items()
    }
    assert counts == {part: cost.parameters_by_part(config)[part] for part in counts}
    assert cost.parameters(config) == sum(p.numel() for p in model.network.parameters())


def test_answers_are_those_of_the_whole_network(model, files):
    """Two pictures in a conversation, step by step without a cache."""
    shown = [file.read_bytes() for file in files]
    said = [
        Image(shown[0], role="user"),
        Text("and", role="user"),
        Image(shown[1], role="user"),
        Text("?", role="user"),
    ]
    (answer,) = model.produce([said], Sampling(max_tokens=6))[0]
    ids, sight = model.request(said, Sampling()).ids, model.tokenizer.sight
    pixels = sight.seen(shown)
    produced: list[int] = []
    with torch.no_grad():
        for _ in range(6):
            row = torch.tensor([ids + produced])
            hidden = model.network(row, Context(torch.arange(row.shape[1])[None]), pixels)
            logits = model.network.logits(hidden[0, -1])
            logits[[i for i in model.tokenizer.special.values() if i not in model.tokenizer.ends]] = -torch.inf
            logits[sight.vocabulary.placeholder :] = -torch.inf
            produced.append(int(logits.argmax()))
            if produced[-1] in model.tokenizer.ends:
                produced.pop()
                break
    assert answer.ids == produced
    swapped = [said[2], said[1], said[0], said[3]]
    assert model.request(swapped, Sampling()).given.digest != model.request(said, Sampling()).given.digest


def test_choices_are_scored_with_the_picture_in_sight(model, files):
    asked = [prompt(get_task("answering"), {"question": "What colour?", "image": file.read_bytes()}) for file in files]
    choices = [[Text(word, target=True)] for word in ("red", "blue")]
    together = model.score([asked[0], asked[1], asked[0]], [choices[0], choices[0], choices[1]])
    assert together[0].logprob != together[1].logprob
    for segments, choice, score in zip((asked[0], asked[1], asked[0]), (choices[0], choices[0], choices[1]), together):
        alone = model.score([segments], [choice])[0]
        assert score.logprob == pytest.approx(alone.logprob, abs=1e-4)
    ids = [*map(ord, "red")]
    assert len(ids) + 1 == together[0].tokens


def test_batches_answer_as_one_alone(model, files):
    prompts = [
        prompt(get_task("captioning"), {"image": files[0].read_bytes()}),
        [Text("a red", target=True)],
        prompt(get_task("captioning"), {"image": files[1].read_bytes()}),
        prompt(get_task("answering"), {"question": "how many?", "image": files[0].read_bytes()}),
    ]
    sampling = Sampling(max_tokens=8)
    together = [one.ids for (one,) in model.produce(prompts, sampling)]
    assert together == [model.produce([asked], sampling)[0][0].ids for asked in prompts]


def test_tasks_that_draw_are_not_among_its_own(model):
    assert {"captioning", "answering", "chat", "summarization"} <= set(model.able)
    assert not {"drawing", "editing"} & set(model.able)


def test_verbs_and_reports(polytask, made, files):
    run, _ = made
    for words in (["caption", run, files[0]], ["answer", run, "how many circles?", "--image", files[0]]):
        result = polytask(*words, "--max-tokens", 4)
        assert result.exit_code == 0, result.stderr
    result = polytask("eval", run, "--task", "captioning", "--data", "blocksworld", "--limit", 2, "--json")
    assert json.loads(result.stdout)["examples"] == 8
    texts = polytask("eval", run, "--task", "text", "--data", "blocksworld", "--limit", 3, "--json")
    assert json.loads(texts.stdout)["metrics"]["bits_per_byte"] > 0, texts.stderr


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda m, _: m.draw("red"), TokenizerError, "draws none"),
        (lambda m, file: m.edit(file, "make it red"), TokenizerError, "draws none"),
        (lambda m, _: m.caption(b"no"), TaskError, "no picture"),
        (lambda m, file: m.answer("x" * 300, image=file), TooLong, "reads 256"),
    ],
)
def test_mistakes_are_one_sentence(model, files, ask, error, words):
    with pytest.raises(error, match=words):
        ask(model, files[0])


def test_recipes_that_do_not_fit_are_refused(polytask, made, tmp_path):
    recipe = made[0].parent / "recipe.yaml"
    for change, words in (
        ("model.patch=7", "multiple of patch"),
        ("model.patch=2", "take larger patches"),
        ("tokenizer.pictures={from: nowhere}", "looks at pictures by itself"),
        ("data.sources=[{task: drawing, from: blocksworld, limit: 9}]", "task drawing draws pictures"),
        ("model.depht=3", "depth"),
    ):
        result = polytask("train", recipe, "--set", change, "--out", tmp_path / "run")
        assert result.exit_code == 2
        assert words in result.stderr


def test_it_is_tuned_further(polytask, made, files, tmp_path):
    rows = [{"image": str(files[n % 2]), "caption": f"picture {n % 2}"} for n in range(12)]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    words = ("--task", "captioning", "--data", data, "--steps", 2, "--out", tmp_path / "tuned")
    result = polytask("tune", made[0], *words)
    assert result.exit_code == 0, result.stderr
    tuned = pt.load(tmp_path / "tuned")
    assert tuned.network.config == pt.load(made[0]).network.config
    assert isinstance(tuned.caption(PIL.Image.open(files[0]), max_tokens=3), str)


def test_it_is_exported_as_what_transformers_reads(polytask, made, model, files, tmp_path):
    import transformers

    result = polytask("export", made[0], "--to", "hf", tmp_path / "theirs")
    assert result.exit_code == 0, result.stderr
    assert "as 16 tokens" in result.stdout
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "theirs").eval()
    request = model.request(prompt(get_task("captioning"), {"image": files[0].read_bytes()}), Sampling())
    ids, pixels = torch.tensor([request.ids]), model.tokenizer.sight.seen([files[0].read_bytes()])
    with torch.no_grad():
        logits = model.network.logits(model.network(ids, Context(torch.arange(ids.shape[1])[None]), pixels))
        torch.testing.assert_close(theirs(input_ids=ids, pixel_values=pixels).logits, logits, rtol=0, atol=1e-4)


def test_models_that_only_look_are_asked_to_draw_in_vain(polytask, made, files, tmp_path):
    for words in (["draw", made[0], "red"], ["edit", made[0], files[0], "red"], ["variations", made[0], files[0]]):
        result = polytask(*words, "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert "draws no pictures" in result.stderr


def test_quantized_it_still_looks(made, files):
    assert isinstance(pt.load(made[0], int8=True).caption(files[0], max_tokens=3), str)
    with pytest.raises(ConfigError, match="8 or 4 bits"):
        pt.load(made[0], int8=True).save("nowhere")
