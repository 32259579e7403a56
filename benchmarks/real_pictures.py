"""Drawings beside real pictures: a model's sheet, and how like real ones its drawings are by another network.

    polytask train digits-classifier && polytask train mnist-digits
    python benchmarks/real_pictures.py runs/mnist-digits --data mnist_digits --judge runs/digits-classifier

The data is a folder with files for training and for validation, found as recipes find it (POLYTASK_DATA). The sheet of
a model that draws by label has ten drawings of each, a row for each label; that of one that reads captions has a row of
held-out pictures above a row of what the model draws of their captions, which are in the JSON. Without --judge there is
the sheet alone.
"""

import argparse
from itertools import chain
from pathlib import Path
from typing import Any

import harness

import polytask as pt
from polytask.data.places import judging_split
from polytask.data.sources import SourceSpec, read
from polytask.run.evaluate import evaluate
from polytask.tasks.picture import contact_sheet, decode, fitted

ACROSS, ROWS = 10, 5  # pictures of a row; rows of held-out pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--judge", default=None)
    parser.add_argument("--steps", type=int, default=None, help="as the model's recipe says where not given")
    parser.add_argument("--sampler", default=None, help="the same")
    parser.add_argument("--guidance", type=float, nargs="+", default=[None], help="the same; each of them is judged")
    parser.add_argument("--name", default="", help="of the results; the folder's where not given")
    parser.add_argument("--limit", type=int, default=None, help="held-out pictures at most")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    words = parser.parse_args()
    report, model = harness.Report(words.name or words.model.name, words.out), pt.load(words.model)
    figures: dict[str, Any] = {"model": {name: model.info[name] for name in ("parameters", "steps", "pictures_seen")}}
    report.say(", ".join(f"{name} {value:,}" for name, value in figures["model"].items()))
    for guidance in words.guidance if words.judge else ():
        drawing = said(words, guidance)
        wish = model.wish(drawing)
        report.say(f"\nguidance {wish.guidance}, {wish.steps} steps of {wish.sampler}")
        given: dict[str, Any] = {"drawing": drawing, "judge": words.judge, "limit": words.limit}
        found = evaluate(str(words.model), "drawing", words.data, {}, {}, quiet=True, **given)
        for line in found.lines():
            report.say(line)
        figures[f"guidance {wish.guidance}"] = found.to_dict()
    rows = [] if model.labels else held_out(words.data)
    figures["captions"] = model.labels or [row["caption"] for row in rows]
    report.save(figures)
    drawn = model.draw_many(figures["captions"], n=ACROSS if model.labels else 1, **said(words, words.guidance[-1]))
    pictures = list(chain.from_iterable(drawn))
    if rows:
        real = [fitted(decode(row["image"]), model.side) for row in rows]
        pairs = [side[i : i + ACROSS] for i in range(0, len(rows), ACROSS) for side in (real, pictures)]
        pictures = list(chain.from_iterable(pairs))
    sheet = contact_sheet(pictures, columns=ACROSS, scale=2)
    sheet.save(words.out / f"{report.name}.png", optimize=True)


def said(words: argparse.Namespace, guidance: float | None) -> dict[str, Any]:
    """The dials that are not left to the model."""
    dials = {"steps": words.steps, "guidance": guidance, "sampler": words.sampler}
    return {name: value for name, value in dials.items() if value is not None}


def held_out(data: str) -> list[dict[str, Any]]:
    return list(read(SourceSpec("drawing", data, split=judging_split(data), limit=ROWS * ACROSS)))


if __name__ == "__main__":
    main()
