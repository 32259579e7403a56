"""A model that draws scenes of the blocks world, judged by rule, with a sheet of its drawings.

    polytask train dvae-blocks && polytask train dalle-blocks
    python benchmarks/blocks.py runs/dalle-blocks

200 unseen scenes of 1, 2 and 3 objects each, and 200 with pairs of colour and shape that training never showed. On the
sheet are the first eight of 1, 2 and 3 objects, and of the pairs, a row each; wrong ones have a black frame.
"""

import argparse
from pathlib import Path
from typing import Any

import harness
from PIL.ImageOps import expand

import polytask as pt
from polytask.blocksworld.drawn import right
from polytask.data.sources import SourceSpec, read
from polytask.run.evaluate import evaluate
from polytask.tasks.picture import contact_sheet

GROUPS = [("test", [n, n]) for n in (1, 2, 3)] + [("compositional", [1, 3])]


def drawings(model: Any, count: int) -> list[Any]:
    captions = []
    for split, objects in GROUPS:
        rows = read(SourceSpec("drawing", "blocksworld", limit=count, split=split, options={"objects": objects}))
        captions += [row["caption"] for row in rows]
    drawn = [pictures[0] for pictures in model.draw_many(captions)]
    frames = ["white" if right(picture, caption) else "black" for picture, caption in zip(drawn, captions)]
    return [expand(picture, 2, frame) for picture, frame in zip(drawn, frames)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--name", default="", help="of the results; the folder's where not given")
    parser.add_argument("--limit", type=int, default=200, help="scenes of each group")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    words = parser.parse_args()
    report = harness.Report(words.name or words.model.name, words.out)
    found = evaluate(str(words.model), "drawing", "blocksworld", {}, {}, limit=words.limit, quiet=True)
    for line in found.lines():
        report.say(line)
    report.save({"drawing": found.to_dict()})
    sheet = contact_sheet(drawings(pt.load(words.model), 8), columns=8, scale=3)
    sheet.save(words.out / f"{report.name}.png")


if __name__ == "__main__":
    main()
