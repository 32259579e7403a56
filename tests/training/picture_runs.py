"""Recipes of networks for pictures at their smallest, and data for those that learn from files."""

import json

from polytask.run.assembly import read_recipe
from polytask.tasks.picture import png

FEW = [
    "training.steps=2", "training.warmup=1", "training.batch_rows=4", "evaluation.every=2", "data.sources.0.limit=24",
    "data.sources.0.validation=null", "data.held_out=0.2",
]  # fmt: skip
EFFICIENT = ["model.channels=32", "model.multipliers=[1,1]", "model.blocks=1", "model.attention=[16]",
             "model.reader_dim=64"]  # fmt: skip
SMALL = {
    "clip-blocks": ["model.layers=1", "model.dim=64", "model.text_layers=1", "model.text_dim=64", "model.embed=32"],
    "dvae-blocks": ["model.width=8", "model.first=16"],
    "imagen-blocks": EFFICIENT,
    "imagen-64-blocks": ["model.multipliers=[1,1,1]", "model.reader_dim=64"],
    "edit-blocks": [],
    "imagen-more-blocks": [],
    "unclip-prior-blocks": ["model.layers=1", "model.dim=64"],
    "unclip-blocks": EFFICIENT,
    "unclip-64-blocks": ["model.multipliers=[1,1]"],
    "mnist-digits": ["model.channels=32", "model.multipliers=[1,1]", "model.attention=[]"],
    "cifar10": ["model.channels=32", "model.multipliers=[1,1]", "model.attention=[]"],
    "emoji": ["model.channels=32", "model.multipliers=[1,1]", "model.attention=[]", "model.reader_dim=64"],
    "digits-classifier": ["model.width=8", "model.blocks=1"],
    "cifar10-classifier": ["model.width=8", "model.blocks=1"],
}  # fmt: skip
REAL = ["mnist-digits", "cifar10", "emoji", "digits-classifier", "cifar10-classifier"]  # of files, written by the test
DIGITS = ["data.sources.0.from=digits.jsonl", "data.sources.0.limit=null"]


def write_digits(folder):
    from PIL import Image

    folder.mkdir()
    rows = []
    for number in range(12):
        (folder / f"{number}.png").write_bytes(png(Image.new("L", (28, 28), 20 * number)))
        rows.append(
            json.dumps({"image": f"{number}.png", "label": str(number % 3), "caption": f"the digit {number % 3}"})
        )
    (folder / "digits.jsonl").write_text("\n".join(rows))


def small(name, root, more=()):
    frozen = {
        "imagen-more-blocks": [f"model.drawing.from={root / 'imagen-blocks'}"],
        "edit-blocks": [f"model.drawing.from={root / 'imagen-blocks'}"],
        "imagen-64-blocks": [f"model.base.from={root / 'imagen-blocks'}"],
        "unclip-prior-blocks": [f"model.clip.from={root / 'clip-blocks'}"],
        "unclip-blocks": [f"model.clip.from={root / 'clip-blocks'}",
                          f"model.prior.from={root / 'unclip-prior-blocks'}"],
        "unclip-64-blocks": [f"model.base.from={root / 'unclip-blocks'}"],
    }  # fmt: skip
    own = DIGITS if name in REAL else []
    return read_recipe(name, [*FEW, *SMALL[name], *frozen.get(name, []), *own, *more], root / "data")


def more_of_unclip(root, more=(), drawing="unclip-blocks"):
    """`unclip-blocks` that goes on from another run."""
    names = {"drawing": drawing, "clip": "clip-blocks", "prior": "unclip-prior-blocks"}
    own = [f"model.{part}.from={root / name}" for part, name in names.items()]
    return read_recipe("imagen-more-blocks", [*FEW, "model.system=dalle2", *own, *more], root / "data")
