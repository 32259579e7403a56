"""Predictable scaling: small networks say what a larger one will come to, before it is trained.

    python benchmarks/scaling.py --data-dir DATA

Networks of two layers and several widths learn to go on with books, each on 20 tokens a parameter, the learning rate
falling to 0 at each run's own end. It is lower by the root of the width too, about what runs of widths 32, 64 and 96
did best with, and a step reads 4,096 tokens: with 256, losses were higher by a fifth. A law with an irreducible term
is fitted to the last validation losses. What it says of a network of more than 20 times the compute of the largest
goes into results/scaling-prediction.json; only then is that network trained, and the prediction held to it.

A run that has ended is kept in --work; the same command goes on with the next. A prediction that is there is not made
again: it holds for the runs it was made of.
"""

import argparse
import json
import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import harness

SMALL, LARGE = (32, 40, 48, 64, 80), 192
SEEDS = (0, 1, 2)
ROWS, LENGTH, TOKENS_A_PARAMETER = 32, 128, 20
RATE = 0.245  # over the root of the width
RECIPE = """
model: {{system: generalist, depth: 2, dim: {dim}, heads: {heads}, width: {width}}}
seed: {seed}
tokenizer: {{kind: bpe, size: 512, rows: 5000}}
data:
  folder: {data}
  sources:
    - {{task: text, from: books/train.parquet, validation: books/validation.parquet, limit: {texts}}}
training: {{steps: {steps}, batch_rows: {rows}, context_length: {length}, precision: float32, optimizer: muon,
  lr: {rate}, schedule: cosine, warmup: 0.1, save_every: 0, keep: 1}}
evaluation: {{every: {steps}}}
"""


def recipe_of(options: argparse.Namespace, dim: int, seed: int) -> Path:
    """The file of a run's recipe, written anew."""
    parameters = 26 * dim**2 + 512 * dim  # matrices of 4 + 9 dim x dim a layer, and the tied embedding at the most
    steps = max(4, round(TOKENS_A_PARAMETER * parameters / (ROWS * LENGTH) / options.shorter))
    said = {
        "dim": dim,
        "heads": max(1, dim // 16),
        "width": 3 * dim,
        "seed": seed,
        "texts": options.texts,
        "rate": round(RATE / dim**0.5, 4),
    }
    said["data"] = json.dumps(str(options.data_dir.resolve()))
    path = options.work / "recipes" / f"width-{dim}-seed-{seed}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(RECIPE.format(**said, steps=steps, rows=ROWS, length=LENGTH))
    return path


def run_one(asked: dict[str, Any]) -> None:
    """In a process of its own: trains a recipe."""
    from polytask.run.assembly import read_recipe
    from polytask.run.train import train_recipe

    train_recipe(read_recipe(asked["recipe"], []), Path(asked["out"]), callbacks=[])
    used = resource.getrusage(resource.RUSAGE_SELF)
    harness.answer({"cpu": used.ru_utime + used.ru_stime})


def trained(options: argparse.Namespace, dim: int, seed: int) -> tuple[Path, float]:
    """(the folder of a run, the seconds of CPU time it took), of a run that is kept or is made now."""
    name = f"width-{dim}-seed-{seed}"
    kept, written = options.work / f"{name}.json", options.work / "recipes" / f"{name}.yaml"
    before = written.read_text() if kept.is_file() else None
    recipe = recipe_of(options, dim, seed)
    if before not in (None, recipe.read_text()):
        sys.exit(f"{options.work / name} was trained by another recipe; name another folder for --work.")
    out = options.work / name
    if not kept.is_file():
        shutil.rmtree(out, ignore_errors=True)  # of a run that was cut off
        asked = {"recipe": str(recipe), "out": str(out)}
        kept.write_text(json.dumps(harness.ask(__file__, ["--run", json.dumps(asked)])))
    return out, json.loads(kept.read_text())["cpu"]


def climb(options: argparse.Namespace, report: harness.Report) -> dict[str, Any]:
    from polytask.run import scaling

    small = [trained(options, dim, seed) for dim in options.small for seed in SEEDS]
    found = scaling.fit_runs([str(folder) for folder, _ in small])
    path = options.out / "scaling-prediction.json"
    if not path.is_file():
        scaling.predict(found, str(recipe_of(options, options.large, 0)), path)
    made = scaling.Prediction.read(path)
    report.say(f"\n{len(small)} small runs, {sum(cpu for _, cpu in small):.0f} s of CPU time")
    rows = [
        [run.name, f"{run.parameters:,}", f"{run.tokens:,}", f"{run.flops:.3g}", f"{run.loss:.4f}", f"{error:+.2%}"]
        for run, error in zip(found.runs, found.residuals)
    ]
    report.table(["run", "parameters", "tokens", "FLOPs", "validation loss", "the law is off by"], rows)
    intervals = found.intervals()
    said = (f"{name} = {value:.4g} ({intervals[name][0]:.4g} to {intervals[name][1]:.4g})"
            for name, value in found.law.named().items())  # fmt: skip
    report.say(f"\n{found.law.form}, 95% intervals of a bootstrap of residuals: {', '.join(said)}")
    between = " to ".join(f"{end:.4f}" for end in made.interval or ())
    report.say(f"predicted {made.made}: {made.loss:.4f} ({between}) for width {options.large}, {made.flops:.3g} FLOPs, "
               f"{made.times:.1f} times the largest small run")  # fmt: skip
    large, cpu = trained(options, options.large, 0)
    outcome = scaling.check(path, large)
    verdict = "holds" if outcome.holds else "does not hold"
    late = "" if outcome.before else ", and was not made before the run"
    report.say(f"came out {outcome.run.loss:.4f} after {cpu:.0f} s of CPU time: off by {outcome.error:+.2%}")
    report.say(f"the prediction {verdict} within {scaling.HOLDS:.0%}{late}")
    path.with_suffix(".png").rename(options.out / "scaling.png")
    return {
        "prediction": made.to_dict(), "loss": outcome.run.loss, "error": outcome.error, "before": outcome.before,
        "holds": outcome.holds, "cpu": {"small": sum(cpu for _, cpu in small), "large": cpu},
    }  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["--run"]:
        return run_one(json.loads(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/scaling-benchmark"), help="where runs are kept")
    parser.add_argument("--small", type=int, nargs="+", default=SMALL, metavar="WIDTH", help="of the small runs")
    parser.add_argument("--large", type=int, default=LARGE, metavar="WIDTH", help="of the run that is predicted")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("POLYTASK_DATA", "."),
                        help="holds books/train.parquet and validation.parquet; default $POLYTASK_DATA")  # fmt: skip
    parser.add_argument("--texts", type=int, default=4000, help="parts of books to learn from")
    parser.add_argument("--shorter", type=int, default=1, help="divide every run's steps by this")
    parser.add_argument("--quick", action="store_true", help="small widths and few steps: does the script work?")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    options = parser.parse_args()
    if options.quick:
        options.small, options.large, options.texts, options.shorter = (8, 12, 16), 24, 50, 100
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    report = harness.Report("scaling", options.out)
    report.save(climb(options, report))


if __name__ == "__main__":
    main()
