"""A small diffusion model learns six kinds of shapes in about a minute, and is judged by what it draws.

    python benchmarks/shapes.py [--seconds 60] [--out FOLDER]

Circles, squares and triangles, in red or blue, of any size and place, 16 pixels a side. A drawn picture is judged by
the real one, of all kinds, that is nearest to it, and by Frechet distance and precision and recall on its pixels.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from harness import Report
from PIL import Image, ImageDraw

from polytask import runtime
from polytask.evaluation.pictures import Moments, frechet_distance, precision_recall
from polytask.inference.images import ImageEngine, ImageRequest
from polytask.models.diffusion import Diffusion, DiffusionConfig
from polytask.models.unet import UNetConfig
from polytask.training.ema import MovingAverage
from polytask.training.objectives.diffusion import Denoising

SIDE, SHAPES, COLOURS = 16, ("circle", "square", "triangle"), ((220, 40, 40), (40, 60, 220))
KINDS = len(SHAPES) * len(COLOURS)


@dataclass
class Pictures:
    """What the objective reads of a batch."""

    pixels: torch.Tensor
    labels: torch.Tensor
    sources: torch.Tensor
    ids: None = None
    mask: None = None


def picture(kind: int, generator: torch.Generator) -> torch.Tensor:
    """(3, SIDE, SIDE), drawn four times as large."""
    shape, colour = SHAPES[kind // 2], COLOURS[kind % 2]
    half = 4 * (3 + 2.5 * float(torch.rand((), generator=generator)))
    free = 4 * SIDE - 2 * half
    x, y = (half + free * float(torch.rand((), generator=generator)) for _ in range(2))
    image = Image.new("RGB", (4 * SIDE, 4 * SIDE), (255, 255, 255))
    brush, box = ImageDraw.Draw(image), (x - half, y - half, x + half, y + half)
    if shape == "circle":
        brush.ellipse(box, fill=colour)
    elif shape == "square":
        brush.rectangle(box, fill=colour)
    else:
        brush.polygon([(x, y - half), (x - half, y + half), (x + half, y + half)], fill=colour)
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    levels = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(SIDE, SIDE, 3)
    return levels.permute(2, 0, 1).float() / 127.5 - 1


def pictures(count: int, seed: int) -> Pictures:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % KINDS
    pixels = torch.stack([picture(int(kind), generator) for kind in labels])
    return Pictures(pixels, labels, torch.zeros(count, dtype=torch.int64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=None)
    words = parser.parse_args()
    runtime.prepare()
    report = Report("shapes")
    data, unseen = pictures(6000, 0), pictures(600, 1)
    unet = UNetConfig(pixels=SIDE, channels=32, multipliers=(1, 2, 2), blocks=1, attention=(4,), groups=8, pooled=64)
    model = Diffusion(DiffusionConfig(unet, classes=KINDS, prediction="v")).initialize(0)
    steps, loss = train(model, data, words.seconds)
    report.say(f"{sum(p.numel() for p in model.parameters()):,} parameters, {steps} steps of 64, last loss {loss:.4f}")
    start = time.perf_counter()
    requests = [
        ImageRequest(
            model.condition(labels=torch.tensor([i % KINDS])), steps=20, guidance=2.0, seed=i, sampler="dpm_solver"
        )
        for i in range(120)
    ]
    drawn = torch.cat(ImageEngine(model, max_requests=60).run(requests))
    seconds = time.perf_counter() - start
    right = judged(drawn, data) == torch.arange(120) % KINDS
    both = precision_recall(unseen.pixels[:120].flatten(1), drawn.flatten(1))
    figures = {
        "right": float(right.float().mean()), "pictures_per_second": 120 / seconds,
        "frechet": frechet_distance(moments(unseen.pixels), moments(drawn)),
        "frechet_of_noise": frechet_distance(moments(unseen.pixels), moments(torch.randn_like(drawn))),
        "precision": both.precision, "recall": both.recall,
        "right_of_real": float((judged(unseen.pixels, data) == unseen.labels).float().mean()),
    }  # fmt: skip
    report.table(["measure", "value"], [[name, f"{value:.3f}"] for name, value in figures.items()])
    if words.out is not None:
        words.out.mkdir(parents=True, exist_ok=True)
        sheet(drawn).save(words.out / "shapes.png")


def train(model: Diffusion, data: Pictures, seconds: float) -> tuple[int, float]:
    """Leaves the moving average of the weights; the number of steps and the last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    average, objective = MovingAverage(dict(model.named_parameters()), 0.99), Denoising()
    model.train()
    step, loss, end = 0, 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        torch.manual_seed(step)
        rows = torch.randint(len(data.labels), (64,))
        found = objective.loss(model, Pictures(data.pixels[rows], data.labels[rows], data.sources[rows]))
        optimizer.zero_grad()
        (found.sum / found.weight).backward()
        optimizer.step()
        step, loss = step + 1, float(found.sum.detach() / found.weight)
        average.update(step)
    model.eval()
    average.swap()
    return step, loss


def moments(pixels: torch.Tensor) -> Moments:
    """Of pictures a quarter as wide."""
    return Moments().add(torch.nn.functional.avg_pool2d(pixels, 4).flatten(1))


def judged(drawn: torch.Tensor, data: Pictures) -> torch.Tensor:
    """The kind of the nearest real picture."""
    return data.labels[torch.cdist(drawn.flatten(1), data.pixels.flatten(1)).argmin(1)]


def sheet(drawn: torch.Tensor) -> Image.Image:
    """All pictures, twelve a row."""
    rows = drawn.unflatten(0, (-1, 12)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    levels = ((rows + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).contiguous()
    small = Image.frombytes("RGB", (levels.shape[1], levels.shape[0]), levels.numpy().tobytes())
    return small.resize((2 * small.width, 2 * small.height), Image.Resampling.NEAREST)


if __name__ == "__main__":
    main()
