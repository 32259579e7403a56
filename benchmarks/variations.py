"""What a model that draws CLIP's embeddings makes of given pictures of the blocks world, judged by rule.

    polytask train clip-blocks && polytask train unclip-prior-blocks && polytask train unclip-blocks
    python benchmarks/variations.py runs/unclip-blocks

Of unseen scenes of one object and of two:

inpainting      one object is erased with its cell, and the caption says another colour: right are drawings that show
                all of the caption, and nothing changed outside of the mask
variations      drawings of a picture's embedding alone, and those that begin with its own noise, too: right are those
                that show the same scene; beside it, in how many all objects are there, and have their colour and shape
interpolation   from one picture to another, five with both ends: the error of the ends (PSNR), and how many of all five
                show a scene that the rule reads
differences     the caption says another colour, the last of five is judged by it; beside it how many kept all else

Any other model that draws by diffusion is judged on inpainting alone.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import harness
import numpy as np
import yaml
from PIL import Image

import polytask as pt
from polytask.blocksworld.captions import full, say
from polytask.blocksworld.drawn import compare, right
from polytask.blocksworld.read import read
from polytask.blocksworld.render import render
from polytask.blocksworld.scene import COLOURS, GRID, HELD_OUT, Block, Scene, draw_scene, valid
from polytask.evaluation.intervals import wilson

KEPT = ("shape", "size", "place")


def scenes(count: int, objects: int) -> list[Scene]:
    generator = Random(objects)
    return [draw_scene(generator, "test", (objects, objects)) for _ in range(count)]


def recoloured(scene: Scene, generator: Random) -> Scene:
    """The scene with another colour of its first object, of those that training showed with its shape."""
    first, rest = scene[0], scene[1:]
    others = [first._replace(colour=colour) for colour in COLOURS if colour != first.colour]
    fits = [one for one in others if one.pair not in HELD_OUT and valid((one, *rest))]
    return (generator.choice(fits), *rest)


def cell_mask(block: Block, side: int) -> Image.Image:
    """White in the block's cell."""
    mask, (left, right_), (top, bottom) = (
        np.zeros((side, side), np.uint8),
        _edges(block.column, side),
        _edges(block.row, side),
    )
    mask[top:bottom, left:right_] = 255
    return Image.fromarray(mask)


def _edges(place: int, side: int) -> tuple[int, int]:
    return place * side // GRID, -(-(place + 1) * side // GRID)


def inpainting(model: Any, count: int, side: int, dials: dict[str, Any]) -> Iterator[tuple[str, list[bool]]]:
    for objects in (1, 2):
        generator, found = Random(7), []
        for seed, scene in enumerate(scenes(count, objects)):
            wanted, mask = recoloured(scene, generator), cell_mask(scene[0], side)
            before = render(scene, side)
            (after,) = model.edit(before, say(full(wanted)), mask, seed=seed, **dials)
            kept = np.array(mask) == 0
            same = np.abs(np.array(after, int) - np.array(before, int))[kept].max() <= 1
            found.append(bool(same) and right(after, render(wanted, side)))
        yield f"inpainting, {objects} object{'s' * (objects > 1)}", found


def by_ddim(dials: dict[str, Any]) -> dict[str, Any]:
    """By which a picture's own noise is found and drawn."""
    return {name: value for name, value in dials.items() if name not in ("sampler", "steps")}


def variations(model: Any, count: int, side: int, dials: dict[str, Any]) -> Iterator[tuple[str, list[bool]]]:
    for details in (False, True):
        said = by_ddim(dials) if details else dials
        how = "its own noise" if details else "the embedding alone"
        for objects in (1, 2):
            scores = []
            for seed, scene in enumerate(scenes(count, objects)):
                given = render(scene, side)
                (drawn,) = model.variations(given, seed=seed, details=details, **said)
                scores.append(compare(drawn, given))
            for name in ("right", "objects", "colour", "shape"):
                yield f"variations by {how}, {objects}: {name}", [score[name] == 1 for score in scores]


def differences(model: Any, count: int, side: int, dials: dict[str, Any]) -> Iterator[tuple[str, list[bool]]]:
    generator, changed, kept = Random(7), [], []
    for seed, scene in enumerate(scenes(count, 1)):
        wanted = recoloured(scene, generator)
        drawn = model.difference(
            render(scene, side), say(full(scene)), say(full(wanted)), n=5, seed=seed, **by_ddim(dials)
        )[-1]
        scores = compare(drawn, render(wanted, side))
        changed.append(scores["right"] == 1)
        kept.append(all(scores[name] == 1 for name in KEPT))
    yield "differences", changed
    yield "differences, all but the colour", kept


def interpolation(model: Any, count: int, side: int, dials: dict[str, Any]) -> tuple[float, list[bool]]:
    """The mean PSNR of both ends, and whether each of the pictures shows a scene."""
    found, errors = [], []
    several = scenes(2 * count, 1)
    for seed, (first, second) in enumerate(zip(several[::2], several[1::2])):
        pair = [render(scene, side) for scene in (first, second)]
        drawn = model.interpolate(*pair, n=5, seed=seed, **by_ddim(dials))
        for given, end in zip(pair, (drawn[0], drawn[-1])):
            error = np.square((np.array(given, float) - np.array(end, float)) / 255).mean()
            errors.append(-10 * np.log10(max(error, 1e-10)))
        found += [bool(read(picture).scene) for picture in drawn]
    return float(np.mean(errors)), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--name", default="", help="of the results; the folder's where not given")
    parser.add_argument("--limit", type=int, default=50, help="scenes of each kind")
    parser.add_argument("--dials", nargs="+", default=[], metavar="NAME=VALUE", help="where not as the recipe says")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    words = parser.parse_args()
    dials = {name: yaml.safe_load(value) for name, value in (dial.split("=", 1) for dial in words.dials)}
    model = pt.load(words.model)
    report = harness.Report(f"variations-{words.name or words.model.name}", words.out)
    kinds: list[Callable[..., Iterator[tuple[str, list[bool]]]]] = [inpainting]
    kinds += [variations, differences] if "variations" in model.able else []
    shares = {}
    for kind in kinds:
        for name, found in kind(model, words.limit, model.side, dials):
            shares[name] = share(report, name, found)
    figures: dict[str, Any] = {"shares": shares, "scenes": words.limit, "dials": dials}
    if "variations" in model.able:
        figures["psnr"], found = interpolation(model, words.limit // 2, model.side, dials)
        shares["interpolation shows a scene"] = share(report, "interpolation shows a scene", found)
        report.say(f"interpolation, ends                              {figures['psnr']:.1f} dB")
    report.save(figures)


def share(report: harness.Report, name: str, found: list[bool]) -> float:
    low, high = wilson(sum(found), len(found))
    report.say(f"{name:48} {sum(found) / len(found):.3f}   95% interval {low:.3f} to {high:.3f}")
    return sum(found) / len(found)


if __name__ == "__main__":
    main()
