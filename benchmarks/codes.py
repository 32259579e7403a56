"""DALL-E's codebook beside finite scalars: recipe `dvae-blocks` with 512 codes and 266 thousand parameters either way.

    python benchmarks/codes.py --work FOLDER

The same pictures and steps. The codebook is learned as published (Ramesh et al. 2021, appendix A: logit-Laplace
likelihood, Gumbel noise whose temperature falls from 1 to 1/16, a divergence whose weight rises to 6.6), with the
normal likelihood that all others have, so without the divergence, and so with noise that is weak from the start; finite
scalars (Mentzer et al. 2023) have 8 x 8 x 8 levels, and wider layers where a codebook has a score for each code. Of
pictures that training never showed: PSNR, how many codes they take, the perplexity of those, and how many scenes are
still read right by rule after encoding and decoding.

A run that was stopped goes on with the same command, and one that has ended is kept in FOLDER.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import harness
import torch

from polytask.blocksworld.drawn import right
from polytask.data.sources import SourceSpec, read
from polytask.interop import networks
from polytask.run.assembly import read_recipe
from polytask.tasks.picture import decode, to_picture, to_tensor

PICTURES = ["data.sources.0.limit=30000"]


def variants(steps: int) -> dict[str, list[str]]:
    """Changes to the recipe."""
    rising = max(1, steps // 10)
    falling, weak = f"[1.0, 0.0625, {round(0.8 * steps)}]", f"[0.25, 0.0625, {round(0.8 * steps)}]"
    learned = ["model.levels=[]", "model.codes=512", "model.width=32", "model.first=64"]
    return {
        "finite scalars": ["model.levels=[8,8,8]", "model.width=40", "model.first=112"],
        "codebook, as published": [
            *learned, f"training.dials={{temperature: {falling}, weight: [0.0, 6.6, {rising}]}}",
        ],
        "codebook, normal likelihood": [
            *learned, f"training.dials={{spread: 0.1, temperature: {falling}, weight: [0.0, 6.6, {rising}]}}",
        ],
        "codebook, no divergence": [
            *learned, f"training.dials={{spread: 0.1, temperature: {falling}, weight: [0.0, 0.0, 1]}}",
        ],
        "codebook, weak noise": [
            *learned, f"training.dials={{spread: 0.1, temperature: {weak}, weight: [0.0, 0.0, 1]}}",
        ],
    }  # fmt: skip


def trained(options: argparse.Namespace, name: str, changes: list[str]) -> Path:
    steps = [f"training.steps={options.steps}", "training.schedule=wsd", "training.decay=0.4", "training.warmup=0.1"]
    recipe = read_recipe("dvae-blocks", [*PICTURES, *steps, *changes])
    return harness.trained(recipe, options.work, name.replace(",", "").replace(" ", "-"))


@torch.inference_mode()
def judged(folder: Path, rows: list[dict[str, Any]]) -> dict[str, float]:
    network = networks.load(networks.read(folder).path).eval()
    pixels = to_tensor([decode(row["image"]) for row in rows])
    codes = torch.cat([network.codes(part) for part in pixels.split(64)])
    back = torch.cat([network.pixels(part) for part in codes.split(64)])
    counts = torch.bincount(codes.flatten(), minlength=network.codebook).double()
    shares = counts[counts > 0] / counts.sum()
    error = (back - pixels).square().mean((1, 2, 3)) / 4  # of pixels from 0 to 1
    return {
        "psnr": float((-10 * error.log10()).mean()),
        "used": int((counts > 0).sum()),
        "perplexity": math.exp(-float((shares * shares.log()).sum())),
        "right": sum(right(to_picture(one), row["caption"]) for one, row in zip(back, rows)) / len(rows),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/codes"), help="where runs are kept")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--limit", type=int, default=300, help="pictures to judge by")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    folders = {name: trained(options, name, changes) for name, changes in variants(options.steps).items()}
    spec = SourceSpec("drawing", "blocksworld", limit=options.limit, split="test", options={"pixels": 32})
    rows, report = list(read(spec)), harness.Report("codes", options.out)
    found = {name: judged(folder, rows) for name, folder in folders.items()}
    report.say(f"{options.steps:,} steps of 32 pictures; {len(rows)} others to judge by")
    report.table(["512 codes", "parameters", "PSNR, dB", "codes used", "perplexity", "scenes still right"], [
        [name, f"{one['parameters']:,}", f"{one['psnr']:.1f}", str(one["used"]), f"{one['perplexity']:.0f}",
         f"{one['right']:.1%}"] for name, one in found.items()
    ])  # fmt: skip
    report.save(found)


if __name__ == "__main__":
    main()
