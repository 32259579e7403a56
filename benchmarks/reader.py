"""The reader of blocks-world pictures: how often it reads what was rendered, and what it must not let pass.

    python benchmarks/reader.py

Scenes of one to five objects of all splits. Noise is normal, of this standard deviation of 255, and cut off at 0 and
255; "moved as a whole" shifts the picture by one pixel in a random direction, "each moved" every object by up to one
pixel (of the 32) both ways. What must not pass is judged against the scene it was made from.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from random import Random

import harness
import numpy as np
from PIL import Image

from polytask.blocksworld.drawn import judge_picture
from polytask.blocksworld.read import read_many
from polytask.blocksworld.render import GREY, coverage, pixels
from polytask.blocksworld.scene import CELLS, COLOURS, PAIRS, SHAPES, SIZES, SPLITS, Block, Scene, draw_scene

CONDITIONS = [  # (pixels, noise, moved as a whole, each moved)
    (size, noise, whole, each)
    for size in (32, 64)
    for noise, whole, each in ((0, 0, 0), (8, 0, 0), (16, 0, 0), (0, 1, 0), (0, 0, 1), (8, 1, 0), (8, 0, 1), (16, 0, 1))
]


def scenes(count: int, seed: int) -> list[Scene]:
    rng = Random(seed)
    return [draw_scene(rng, rng.choice(SPLITS), (1, 5)) for _ in range(count)]


def moved(picture: np.ndarray, right: int, down: int) -> np.ndarray:
    """By whole pixels; grey comes in at the edges."""
    wide = np.pad(picture, ((1, 1), (1, 1), (0, 0)), constant_values=GREY[0])
    return wide[1 - down :, 1 - right :][: len(picture), : len(picture)]


def shown(scene: Scene, rng: Random, noise: np.random.Generator, condition: tuple[int, int, int, int]) -> Image.Image:
    size, sigma, whole, each = condition
    reach = each * size / 32
    shifts = [(rng.uniform(-reach, reach), rng.uniform(-reach, reach)) for _ in scene]
    picture = pixels(scene, size, shifts)
    if whole:
        picture = moved(picture, *rng.choice([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y]))
    noisy = picture + noise.normal(0, sigma, picture.shape)
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def accuracy(count: int, condition: tuple[int, int, int, int], seed: int) -> float:
    drawn, rng, noise = scenes(count, seed), Random(seed), np.random.default_rng(seed)
    right = 0
    for start in range(0, count, 500):
        part = drawn[start : start + 500]
        readings = read_many([shown(scene, rng, noise, condition) for scene in part])
        right += sum(set(reading.scene or ()) == set(scene) for reading, scene in zip(readings, part))
    return right / count


def blank(scene: Scene, rng: Random) -> np.ndarray:
    return np.full((32, 32, 3), rng.choice([GREY, *((v, v, v) for v in (0, 255))]), dtype=np.uint8)


def all_noise(scene: Scene, rng: Random) -> np.ndarray:
    return np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def half_drawn(scene: Scene, rng: Random) -> np.ndarray:
    """One object lacks its left, right, upper or lower half."""
    block = rng.choice(scene)
    canvas, rest = pixels(scene).astype(float), pixels(tuple(b for b in scene if b != block))
    x, y, alpha = coverage(block.shape, block.size, block.cell, 32)
    middle_x, middle_y = x + alpha.shape[1] / 2, y + alpha.shape[0] / 2
    columns, rows = np.arange(32)[None, :] + 0.5, np.arange(32)[:, None] + 0.5
    cut = rng.choice([columns < middle_x, columns > middle_x, rows < middle_y, rows > middle_y])
    return np.where(cut[..., None], rest, canvas).astype(np.uint8)


def one_more(scene: Scene, rng: Random) -> np.ndarray:
    free = [cell for cell in range(CELLS) if cell not in {block.cell for block in scene}]
    return pixels((*scene, Block(rng.choice(SIZES), *rng.choice(PAIRS), rng.choice(free))))


def one_less(scene: Scene, rng: Random) -> np.ndarray:
    return pixels(tuple(rng.sample(scene, len(scene) - 1)))


def one_other(scene: Scene, rng: Random) -> np.ndarray:
    """One object has another size, colour, shape or cell."""
    number = rng.randrange(len(scene))
    block = scene[number]
    name, values = rng.choice([("size", SIZES), ("colour", COLOURS), ("shape", SHAPES), ("cell", range(CELLS))])
    taken = {other.cell for other in scene} if name == "cell" else {getattr(block, name)}
    changed = block._replace(**{name: rng.choice([value for value in values if value not in taken])})
    return pixels((*scene[:number], changed, *scene[number + 1 :]))


WRONG: dict[str, Callable[[Scene, Random], np.ndarray]] = {
    "blank": blank, "noise alone": all_noise, "half an object": half_drawn,
    "one object more": one_more, "one object less": one_less, "one attribute other": one_other,
}  # fmt: skip


def passed(make: Callable[[Scene, Random], np.ndarray], count: int, seed: int) -> int:
    """How many wrong pictures are judged right."""
    rng = Random(seed)
    return sum(judge_picture(Image.fromarray(make(scene, rng)), scene) for scene in scenes(count, seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few scenes, to see that it works")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    given = parser.parse_args()
    count, wrong = (200, 50) if given.quick else (10_000, 2_000)
    report = harness.Report("reader", given.out)
    report.say(f"\nread rightly, of {count:,} scenes a row")
    rows, figures = [], []
    for seed, condition in enumerate(CONDITIONS):
        share = accuracy(count, condition, seed)
        size, noise, whole, each = condition
        rows.append([f"{size} pixels", str(noise), "1" if whole else "-", "1" if each else "-", f"{share:.2%}"])
        figures.append({"pixels": size, "noise": noise, "whole": whole, "each": each, "right": share})
    report.table(["", "noise", "moved as a whole", "each moved", "right"], rows)
    report.say(f"\njudged right though wrong, of {wrong:,} pictures a row")
    let = {name: passed(make, wrong, 100 + seed) for seed, (name, make) in enumerate(WRONG.items())}
    report.table(["", "passed"], [[name, str(number)] for name, number in let.items()])
    report.save({"scenes": count, "read": figures, "wrong": wrong, "passed": let})


if __name__ == "__main__":
    main()
