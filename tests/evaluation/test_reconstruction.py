"""polytask eval by pixels: autoencoders, networks that enlarge, and bits per dimension, against figures that are known
or worked out directly."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from polytask.cli.main import app
from polytask.errors import ConfigError, DataError
from polytask.evaluation.pictures import bits_per_dimension, ssim
from polytask.interop import networks
from polytask.models.diffusion import Diffusion, DiffusionConfig
from polytask.models.dvae import Autoencoder, AutoencoderConfig
from polytask.models.unet import UNetConfig
from polytask.nn.quantizer import FiniteScalar
from polytask.run.evaluate import evaluate
from tests.inference.networks import TOKENIZER
from tests.painters import EMBED, SMALL, picture, shaken, write_captioned, write_clip

SIDE, COUNT, STEPS = 16, 18, 20
BLOCKY = UNetConfig(pixels=SIDE, middle_attention=False, **SMALL)


def save(folder, config, **words):
    network = shaken(Diffusion(config).initialize(0))
    networks.save(folder, network, **words)
    return network


def black(config):
    """A network that says of all it sees that it is black."""
    network = Diffusion(config).initialize(0)
    with torch.no_grad():
        network.unet.last.bias[:3] = -1.0
    return network


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("reconstruction")
    (root / "data").mkdir()
    rows = []
    for number in range(COUNT):
        picture(number, SIDE).save(root / "data" / f"{number}.png")
        rows.append(json.dumps({"image": f"data/{number}.png", "caption": f"a red {number}"}))
    (root / "captioned.jsonl").write_text("\n".join(rows))
    config = AutoencoderConfig(image=SIDE, width=8, quantizer=FiniteScalar((4, 4)), groups=2, blocks=1, first=8)
    networks.save(root / "autoencoder", Autoencoder(config).initialize(0))
    blocks = replace(config, image=32)
    networks.save(root / "blocks", Autoencoder(blocks).initialize(0))
    save(root / "plain", DiffusionConfig(BLOCKY))
    unet = replace(BLOCKY, low=True, learned_variance=True)
    enlarging = DiffusionConfig(unet, low_pixels=SIDE // 2, prediction="x0", steps=STEPS)
    networks.save(root / "larger", black(enlarging))
    write_clip(root / "clip", side=SIDE)
    unet = replace(BLOCKY, pooled=EMBED, learned_variance=True)
    words = {"about": {"text_length": 8}, "tokenizer": TOKENIZER, "parts": {"clip": root / "clip"}}
    save(root / "decoder", DiffusionConfig(unet, prediction="v", steps=STEPS), **words)
    return root


def judged(root, name, data="data", **words):
    return evaluate(str(root / name), "drawing", str(root / data), {}, {}, **words)


def originals(order=None):
    """(N, 3, S, S) in [-1, 1], as files of a folder are read, by name."""
    names = order or sorted(range(COUNT), key=lambda number: f"{number}.png")
    arrays = [np.asarray(picture(number, SIDE), dtype=np.float64) for number in names]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 127.5 - 1


def errors(made, pixels):
    """PSNR and mean squared error of colours from 0 to 1."""
    squares = ((made.double() - pixels) / 2).square().flatten(1).mean(1)
    return float((-10 * squares.log10()).mean()), float(squares.mean())


def test_an_autoencoder_is_judged_by_what_it_makes_of_pictures(root):
    report, pixels = judged(root, "autoencoder"), originals()
    network = networks.load(root / "autoencoder")
    with torch.no_grad():
        codes = network.codes(pixels.float())
        made = network.pixels(codes)
    found = report.metrics
    assert report.examples == COUNT
    assert (found["psnr"], found["mse"]) == pytest.approx(errors(made, pixels), rel=1e-4)
    assert found["ssim"] == pytest.approx(float(ssim(made, pixels).mean()), rel=1e-4)
    _, counts = np.unique(codes.numpy(), return_counts=True)
    shares = counts / counts.sum()
    assert found["codes_used"] == len(counts) / 16
    assert found["code_perplexity"] == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    assert "right" not in found
    assert judged(root, "autoencoder", "captioned.jsonl", limit=3, judge="pixels").examples == 3


def test_scenes_that_are_still_read_are_counted(root, monkeypatch):
    """By an autoencoder that gives all pictures back but for the first one, which it forgets."""
    seen = []

    def codes(self, pixels):
        seen.append(torch.cat([torch.ones_like(pixels[:1]), pixels[1:]]))
        return torch.zeros(len(pixels), 1, 1, dtype=torch.int64)

    monkeypatch.setattr(Autoencoder, "codes", codes)
    monkeypatch.setattr(Autoencoder, "pixels", lambda self, codes: seen[-1])
    found = evaluate(str(root / "blocks"), "drawing", "blocksworld", {}, {}, limit=5).metrics
    assert found["right"] == 0.8
    assert 80 < found["psnr"] < 90  # four of 100 and one that is far from it
    assert (found["codes_used"], found["code_perplexity"]) == (1 / 16, 1)


def test_a_network_that_enlarges_is_judged_beside_bicubic_enlargement(root):
    report, pixels = judged(root, "larger", judge="pixels", drawing={"steps": 2}), originals()
    found, small = report.metrics, pixels.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))
    large = F.interpolate(small, size=SIDE, mode="bicubic").clamp(-1, 1)
    assert (found["psnr"], found["mse"]) == pytest.approx(errors(-torch.ones_like(pixels), pixels), rel=1e-4)
    assert (found["psnr, bicubic"], found["mse, bicubic"]) == pytest.approx(errors(large, pixels), rel=1e-4)
    assert found["ssim, bicubic"] == pytest.approx(float(ssim(large, pixels).mean()), rel=1e-4)
    assert found["ssim"] < found["ssim, bicubic"]
    assert report.reproduce["drawing"]["steps"] == 2


def test_bits_are_of_few_pictures_and_seen_beside_the_smaller_ones(root):
    report, network = judged(root, "larger", judge="pixels", drawing={"steps": 1}), networks.load(root / "larger")
    pixels = originals().float()
    low, bits = F.avg_pool2d(pixels, 2), []
    for start in range(0, 16, 4):
        part = slice(start, start + 4)
        bits += bits_per_dimension(network, pixels[part], network.condition(), start, low[part]).tolist()
    assert report.metrics["bits_per_dimension"] == pytest.approx(sum(bits) / 16, rel=1e-4)
    assert "Bits per dimension are of 16 pictures, as each takes 20 passes of the network." in report.notes
    Image.new("RGB", (SIDE, SIDE)).save(root / "black.png")
    known = judged(root, "larger", "black.png", judge="pixels", drawing={"steps": 1}).metrics
    assert known["psnr"] == 100
    assert known["bits_per_dimension"] < report.metrics["bits_per_dimension"] / 2


def test_bits_are_told_what_training_tells(root):
    """The embedding that CLIP has of the picture itself."""
    found = judged(root, "decoder", "captioned.jsonl", judge="pixels", limit=3)
    network, clip = networks.load(root / "decoder"), networks.load(root / "clip")
    pixels = originals(range(3)).float()
    with torch.no_grad():
        condition = network.condition(pooled=clip.encode_image(pixels))
        bits = bits_per_dimension(network, pixels, condition)
    assert set(found.metrics) == {"bits_per_dimension"}
    assert found.metrics["bits_per_dimension"] == pytest.approx(float(bits.mean()), rel=1e-4)
    assert found.metrics["bits_per_dimension"] != pytest.approx(
        float(bits_per_dimension(network, pixels, network.condition()).mean()), rel=1e-4
    )


def test_captions_that_are_too_long_are_left_out(root):
    """Of Imagen's second stage, which reads them and is told of noise."""
    write_captioned(root / "captioned")
    rows = (root / "captioned.jsonl").read_text().splitlines()[:3]
    rows[1] = json.dumps({"image": "data/1.png", "caption": "a red 1 " * 20})
    (root / "long.jsonl").write_text("\n".join(rows))
    report = judged(root, "captioned/larger", "long.jsonl", judge="pixels", drawing={"steps": 1, "guidance": 2.0})
    assert report.examples == 2
    assert "Left out: 1 picture, whose caption is longer than the model reads." in report.notes
    assert set(report.metrics) == {
        f"{figure}{name}" for figure in ("psnr", "ssim", "mse") for name in ("", ", bicubic")
    }


@pytest.mark.parametrize(("name", "words", "sentence"), [
    ("plain", {"judge": "pixels"}, "has not learned its variance"),
    ("autoencoder", {"drawing": {"steps": 4}}, "--steps: it has no effect where .*autoencoder is judged by pixels"),
    ("autoencoder", {"sampling": {"max_tokens": 4}}, "--max-tokens: it has no effect"),
    ("autoencoder", {"judge": "clip"}, "holds an autoencoder, which is judged by pixels"),
    ("autoencoder", {"loading": {"int8": True}}, "holds no language model"),
    ("larger", {"judge": "pixels", "sampling": {"n": 2}}, "--n: it has no effect"),
    ("decoder", {"judge": "pixels", "drawing": {"steps": 4}}, "--steps: it has no effect"),
    ("decoder", {"judge": "pixels"}, "column 'caption' is missing"),
])  # fmt: skip
def test_mistakes_are_named(name, words, sentence, root):
    with pytest.raises((ConfigError, DataError), match=sentence):
        judged(root, name, **words)


def test_the_command_says_figures_and_mistakes(root):
    words = ["eval", str(root / "autoencoder"), "--data", str(root / "data"), "--json"]
    said = CliRunner().invoke(app, [*words, "--task", "drawing", "--limit", "2"])
    assert said.exit_code == 0, said.stderr
    assert set(json.loads(said.stdout)["metrics"]) == {"psnr", "ssim", "mse", "codes_used", "code_perplexity"}
    refused = CliRunner().invoke(app, [*words, "--task", "captioning"])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "judged beside real pictures by --task drawing" in refused.stderr
