"""A CLIP's folder classifies pictures by labels that are named when asked; transformers' CLIPModel says the same."""

import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from typer.testing import CliRunner

import polytask
from polytask.cli.main import app
from polytask.errors import Error
from polytask.pictures.matching import PUBLISHED
from polytask.tasks.picture import to_tensor
from tests.painters import picture, write_captioned, write_clip

WORDS = ["a", "photo", "of", "big", "small", "cat", "dog", "zebra", ".", "<start>", "<end>"]
LABELS = ["cat", "big dog", "zebra"]
SIDE = 24


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """(transformers' model, its folder), random, with a tokenizer of whole words."""
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(WORDS), "max_position_embeddings": 12, "eos_token_id": 10, "bos_token_id": 9}
    vision = {**sizes, "image_size": SIDE, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.logit_scale.fill_(1.5)
    folder = tmp_path_factory.mktemp("theirs")
    model.save_pretrained(folder)
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="."))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["<start>", "<end>"])
    made.post_processor = processors.TemplateProcessing("<start> $A <end>", None, [("<start>", 9), ("<end>", 10)])
    made.save(str(folder / "tokenizer.json"))
    said = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return model, folder, made


def given_to(theirs, texts, image):
    model, _, tokenizer = theirs
    encoded = [tokenizer.encode(text).ids for text in texts]
    longest = max(map(len, encoded))
    ids = torch.tensor([row + [10] * (longest - len(row)) for row in encoded])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in encoded])
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    pixels = ((to_tensor(image) + 1) / 2 - mean) / deviation
    with torch.no_grad():
        return model(ids, pixels[None], mask)


def test_probabilities_are_those_of_transformers(theirs):
    ours = polytask.load(theirs[1])
    for seed in range(3):
        image = picture(seed, SIDE)
        said = given_to(theirs, LABELS, image)
        shares = ours.probabilities([image], LABELS)[0]
        assert list(shares) == LABELS
        assert list(shares.values()) == pytest.approx(said.logits_per_image.softmax(-1)[0].tolist(), abs=1e-5)
        assert ours.classify(image, LABELS) == LABELS[int(said.logits_per_image.argmax())]
        torch.testing.assert_close(ours.embed([image]), said.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.embed(LABELS), said.text_embeds, atol=1e-5, rtol=0)
    assert ours.embed("zebra").shape == ours.embed(image).shape == (1, 16)


def test_texts_of_folders_that_name_2_as_their_end_are_told_apart(theirs, tmp_path):
    """As published CLIPs do, though 2 is a word and the tokenizer has an end of its own."""
    import transformers

    folder = shutil.copytree(theirs[1], tmp_path / "published")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    said = given_to((model, folder, theirs[2]), LABELS, picture(0, SIDE))
    torch.testing.assert_close(polytask.load(folder).embed(LABELS), said.text_embeds, atol=1e-5, rtol=0)
    assert not torch.allclose(said.text_embeds[0], said.text_embeds[1])


def test_templates_are_averaged_as_embeddings(theirs):
    ours, image = polytask.load(theirs[1]), picture(1, SIDE)
    means = []
    for label in LABELS:
        said = given_to(theirs, [one.replace("{}", label) for one in PUBLISHED], image)
        mean = said.text_embeds.mean(0)
        means.append(mean / mean.norm())
    logits = theirs[0].logit_scale.exp() * torch.stack(means) @ said.image_embeds[0]
    shares = ours.probabilities([image], LABELS, "published")[0]
    assert list(shares.values()) == pytest.approx(logits.softmax(-1).tolist(), abs=1e-5)
    assert shares != ours.probabilities([image], LABELS)[0]


@pytest.fixture(scope="module")
def labelled(theirs, tmp_path_factory):
    """A folder of classes: pictures where the CLIP sees them, but for one in three."""
    root, ours = tmp_path_factory.mktemp("labelled"), polytask.load(theirs[1])
    wrong = 0
    for seed in range(12):
        image = picture(seed, SIDE)
        label = ours.classify(image, LABELS)
        if seed % 3 == 0:
            label = LABELS[(LABELS.index(label) + 1) % 3]
            wrong += 1
        (root / label).mkdir(exist_ok=True)
        image.save(root / label / f"{seed}.png")
    assert len(list(root.iterdir())) > 1
    return root


def test_a_folder_of_labelled_pictures_is_evaluated(theirs, labelled):
    words = ["eval", theirs[1], "--task", "classification", "--data", labelled, "--json"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["examples"] == 12
    asked = sorted(path.name for path in labelled.iterdir())
    model, right = polytask.load(theirs[1]), 0
    for label in asked:
        for file in (labelled / label).iterdir():
            right += model.classify(file, asked) == label
    assert report["metrics"]["accuracy"] == pytest.approx(right / 12)
    assert 0.3 < right / 12 < 1
    assert report["reproduce"]["templates"] == ["{}"]


def test_the_command_line(theirs, tmp_path):
    picture(2, SIDE).save(tmp_path / "a.png")

    def classify(*words):
        given = ["classify", theirs[1], "--image", tmp_path / "a.png", *words]
        return CliRunner().invoke(app, [str(word) for word in given])

    expected = polytask.load(theirs[1]).probabilities([tmp_path / "a.png"], LABELS)[0]
    best = max(expected, key=expected.get)
    assert classify("--labels", "cat, big dog,zebra").stdout.strip() == best
    assert classify("--labels", "cat", "big dog", "zebra").stdout.strip() == best
    said = json.loads(classify("--labels", ",".join(LABELS), "--json").stdout)
    assert said["probabilities"] == pytest.approx(expected)
    assert classify("--labels", "cat,zebra", "--template", "published").exit_code == 0
    for words, sentence in (
        (["--labels", "cat"], "two different texts or more"),
        (["--labels", "cat,zebra", "--template", "a photo"], "no single {} where a label goes"),
        (["--labels", "cat,zebra", "--int8"], "--int8:"),
        (["--labels", "cat," + "big " * 30], "this CLIP reads 10"),
    ):
        result = classify(*words)
        assert result.exit_code == 2
        assert sentence in result.stderr


def test_mistakes_are_named(tmp_path):
    ours = polytask.load(write_clip(tmp_path / "clip"))
    for ask, sentence in (
        (lambda: ours.embed([]), "nothing to embed"),
        (lambda: ours.embed(["a", picture(0)]), "embedded apart"),
        (lambda: ours.classify(picture(0), "a, b"), "list of two different texts"),
        (lambda: ours.produce([]), "writes nothing"),
        (lambda: polytask.PictureMatcher.load(write_captioned(tmp_path / "other") / "base"), "holds no CLIP"),
    ):
        with pytest.raises(Error, match=sentence):
            ask()
