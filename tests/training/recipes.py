"""A small recipe of two sources, trained by the command line as programs of their own."""

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPE = """
model: {system: generalist, depth: 2, dim: 32, heads: 2}
tokenizer: {kind: bpe, size: 400}
data:
  held_out: 0.1
  sources:
    - {task: classification, from: praise.jsonl, weight: 2}
    - {task: text, from: places.jsonl, weight: 1}
training:
  {steps: 40, batch_rows: 8, accumulate: 2, context_length: 64, lr: 5e-3, dropout: 0.1, precision: float32,
   ema: 0.9, log_every: 1, save_every: 5}
evaluation: {every: 10}
"""
WORDS = {"good": ("great", "fine", "lovely"), "bad": ("awful", "poor", "nasty")}
THINGS = ("soup", "song", "day", "book", "road", "house")


def write(folder):
    """The recipe's path, with its data beside it."""
    praise = [
        {"text": f"This {thing} is {word}.", "label": label, "labels": list(WORDS)}
        for label, words in WORDS.items()
        for word, thing in product(words, THINGS)
    ]
    places = [{"text": f"The {one} is near the {other}."} for one, other in product(THINGS, THINGS) if one != other]
    for name, rows in (("praise", praise), ("places", places)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder / "recipe.yaml"


def start(recipe, out, *words, changes=(), launcher=(), **environment):
    """`polytask train` of the recipe with a cache beside it."""
    command = [sys.executable, *launcher, "-m", "polytask.cli.main", "train", str(recipe), "--out", str(out), *words]
    command += ["--set", *changes] if changes else []
    fixed = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "POLYTASK_CACHE": str(recipe.parent / "cache")}
    return subprocess.Popen(
        command, cwd=recipe.parent, env={**os.environ, **fixed, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process):
    """What the run said of its progress."""
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    return errors
