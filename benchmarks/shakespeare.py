"""Time to a loss on character Shakespeare: nanoGPT's CPU recipe against polytask's recipe `shakespeare`.

    python benchmarks/shakespeare.py --nanogpt ~/nanoGPT --data-dir DATA             # how soon do we reach its loss?
    python benchmarks/shakespeare.py --nanogpt ~/nanoGPT --data-dir DATA --budget    # how far do we get in its time?

nanoGPT runs exactly as its README says, unchanged. Both read the same characters, and both are judged by one measure:
nats a character over the whole validation text, in windows of the model's own context that do not overlap (so the first
characters of a window have little before them). Neither time has start-up, tokenization, evaluation or saving in it.
"""

import argparse
import contextlib
import json
import math
import pickle
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np

# README of nanoGPT, "I only have a macbook".
DOCUMENTED = {
    "device": "cpu", "compile": False, "eval_iters": 20, "log_interval": 1, "block_size": 64, "batch_size": 12,
    "n_layer": 4, "n_head": 4, "n_embd": 128, "max_iters": 2000, "lr_decay_iters": 2000, "dropout": 0.0,
}  # fmt: skip
QUICK = {"max_iters": 20, "lr_decay_iters": 20, "eval_iters": 1, "eval_interval": 10}
# What would evaluate, show or save while the clock runs; the script evaluates by itself, with the clock stopped.
SILENT = ["evaluation.every=0", "evaluation.samples=0", "evaluation.keep_best=", "training.save_every=0"]
SMALLER = "model.width=320"  # with this the recipe's network has fewer parameters than nanoGPT's
SET = "tinyshakespeare"


def text_of(folder: Path, split: str) -> str:
    """Rows of the set follow each other in the play, so their text joined is the text of that part."""
    import pyarrow.parquet as parquet

    return "".join(parquet.read_table(folder / SET / f"{split}.parquet", columns=["text"])["text"].to_pylist())


# ---- nanoGPT


def prepare_nanogpt(source: Path, folder: Path, train: str, validation: str) -> dict[str, int]:
    """A copy of nanoGPT with its data files, in the format of its prepare.py. Returns the ids of characters."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(".git"), dirs_exist_ok=True)
    characters = sorted(set(train + validation))
    ids = {character: index for index, character in enumerate(characters)}
    data = folder / "data" / "shakespeare_char"
    for name, text in (("train", train), ("val", validation)):
        np.array([ids[character] for character in text], dtype=np.uint16).tofile(data / f"{name}.bin")
    meta = {"vocab_size": len(characters), "itos": dict(enumerate(characters)), "stoi": ids}
    (data / "meta.pkl").write_bytes(pickle.dumps(meta))
    return ids


def run_nanogpt(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Its documented command. Training time is by its own log, where an iteration that evaluates counts as the median.

    Those iterations (every 250th) hold the estimates and the saving of a checkpoint beside their step.
    """
    words = [f"--{key}={value}" for key, value in settings.items()]
    start = time.perf_counter()
    command = [sys.executable, "train.py", "config/train_shakespeare_char.py", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"nanoGPT ended with {done.returncode}:\n{done.stderr[-3000:]}")
    process = time.perf_counter() - start
    times = {int(i): float(ms) / 1e3 for i, ms in re.findall(r"^iter (\d+): .*time ([\d.]+)ms", done.stdout, re.M)}
    interval = settings.get("eval_interval", 250)
    usual = statistics.median(seconds for i, seconds in times.items() if i % interval)
    steps = [times[i] if i % interval else usual for i in range(settings["max_iters"])]
    estimates = re.findall(r"^step (\d+): .*val loss ([\d.]+)", done.stdout, re.M)
    curve = [[sum(steps[: int(i)]), float(loss)] for i, loss in estimates]
    return {"seconds": sum(steps), "process_seconds": process, "step_ms": 1e3 * usual, "estimates": curve}


def judge_nanogpt(folder: Path, text: str, ids: dict[str, int]) -> tuple[float, int]:
    """(loss on the whole text, parameters) of the checkpoint that the run left."""
    import torch

    sys.path.insert(0, str(folder))
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    sys.path.remove(str(folder))
    kept = torch.load(folder / "out-shakespeare-char" / "ckpt.pt", weights_only=True)
    network = GPT(GPTConfig(**kept["model_args"]))
    network.load_state_dict(kept["model"])
    network.eval()

    def losses(given: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        logits, _ = network(given, wanted)  # without targets it answers for the last position alone
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")

    loss = whole_loss(losses, [ids[character] for character in text], kept["model_args"]["block_size"])
    return loss, sum(parameter.numel() for parameter in network.parameters())


def whole_loss(losses: Callable[[Any, Any], Any], ids: list[int], window: int) -> float:
    """Nats a character, over all but the first; `losses` maps ids and targets (B, T) to B x T losses."""
    import torch

    stream, total = torch.tensor(ids), 0.0
    given, wanted = stream[:-1], stream[1:]
    full = len(given) // window * window
    with torch.no_grad():
        for start in range(0, full, 256 * window):
            part = slice(start, min(start + 256 * window, full))
            total += losses(given[part].view(-1, window), wanted[part].view(-1, window)).double().sum().item()
        if full < len(given):
            total += losses(given[None, full:], wanted[None, full:]).double().sum().item()
    return total / len(given)


# ---- polytask


class Reached(Exception):
    """The loss was reached, or the time is over."""


def run_polytask(asked: dict[str, Any]) -> None:
    """In a process of its own: trains the recipe until it reaches `target`, its end, or `limit` seconds of training."""
    import torch

    from polytask import runtime
    from polytask.models import cost
    from polytask.models.heads import cross_entropy
    from polytask.nn.cache import Context
    from polytask.run.assembly import assemble, read_recipe
    from polytask.run.train import build_trainer
    from polytask.training.callbacks import Callback
    from polytask.training.parallel.data import World

    runtime.prepare()
    folder, device = Path(asked["data"]), torch.device("cpu")
    recipe = read_recipe("shakespeare", [*SILENT, *asked["changes"]], folder)
    assembly = assemble(recipe)
    network = assembly.network(device)
    text = text_of(folder, "validation")
    ids, window = assembly.tokenizer.encode(text), recipe.training.context_length
    if len(ids) != len(text):
        raise SystemExit("The recipe's tokenizer must have one id for a character, or losses do not compare.")

    def losses(given: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        hidden = network(given, Context(torch.arange(given.shape[1]).expand_as(given)))
        return cross_entropy(hidden, network.head, wanted, torch.ones(wanted.shape))[1]

    class Watch(Callback):
        curve: list[list[float]] = []
        seconds = 0.0

        def on_start(self, step: int, steps: int) -> None:
            self.since = time.perf_counter()

        def on_step(self, step: int) -> None:
            now = time.perf_counter()
            over = self.seconds + now - self.since > asked["limit"]
            if step % asked["every"] and step != recipe.steps and not over:
                return
            self.seconds += now - self.since
            with trainer.weights_to_keep():
                loss = whole_loss(losses, ids, window)
            self.curve.append([self.seconds, loss, step])
            if loss <= asked["target"] or over:
                raise Reached
            self.since = time.perf_counter()

    watch = Watch()
    with tempfile.TemporaryDirectory() as out:
        trainer = build_trainer(assembly, Path(out), device, World(), [watch], network=network)
        with contextlib.suppress(Reached):
            trainer.run()
    parameters = cost.parameters(assembly.config)
    harness.answer({"curve": watch.curve, "parameters": parameters, "steps": recipe.steps})


def polytask(options: argparse.Namespace, changes: list[str], target: float, limit: float) -> dict[str, Any]:
    asked = {"data": str(options.data_dir), "changes": changes, "every": options.every}
    asked |= {"target": target, "limit": min(limit, 1e9)}
    return harness.ask(__file__, ["--ours", json.dumps(asked)])


def reach(options: argparse.Namespace, theirs: dict[str, Any]) -> dict[str, Any]:
    """Trains until the whole validation loss is nanoGPT's."""
    found = polytask(options, options.change, theirs["loss"], math.inf)
    seconds, loss, step = found["curve"][-1]
    reached = loss <= theirs["loss"]
    return found | {"seconds": seconds if reached else None, "loss": loss, "step": step}


def spend(options: argparse.Namespace, theirs: dict[str, Any]) -> dict[str, Any]:
    """Trains for nanoGPT's time, so many steps as fit, with at most its parameters."""
    changes = [SMALLER, *options.change]
    probe = polytask(options, [*changes, "training.steps=40", "training.warmup=10"], 0.0, math.inf)
    if probe["parameters"] > theirs["parameters"]:
        raise SystemExit(f"Our {probe['parameters']:,} parameters are more than its {theirs['parameters']:,}.")
    (first, _, begin), (last, _, end) = probe["curve"][0], probe["curve"][-1]
    pace = (last - first) / (end - begin) if end > begin else last / end
    steps = max(2, int(0.97 * theirs["seconds"] / pace))
    warmup = [] if any("training.warmup" in change for change in changes) else [f"training.warmup={min(100, steps)}"]
    found = polytask(options, [*changes, *warmup, f"training.steps={steps}"], 0.0, theirs["seconds"])
    within = [point for point in found["curve"] if point[0] <= theirs["seconds"]] or found["curve"][:1]
    seconds, loss, step = min(within, key=lambda point: point[1])
    return found | {"seconds": seconds, "loss": loss, "step": step, "last_loss": within[-1][1]}


# ---- both


def compare(options: argparse.Namespace, report: harness.Report) -> dict[str, Any]:
    """nanoGPT and polytask in turn, `repeats` times."""
    folder = options.data_dir
    train, validation = text_of(folder, "train"), text_of(folder, "validation")
    settings = DOCUMENTED | (QUICK if options.quick else {})
    runs = []
    report.say(f"{len(train):,} characters to learn from, {len(validation):,} to be judged on")
    report.say(
        "nanoGPT: train.py config/train_shakespeare_char.py " + " ".join(f"--{k}={v}" for k, v in settings.items())
    )
    report.say(f"polytask: recipe shakespeare {' '.join(([SMALLER] if options.budget else []) + options.change)}")
    for repeat in range(options.repeats):
        with tempfile.TemporaryDirectory() as scratch:
            ids = prepare_nanogpt(options.nanogpt, Path(scratch), train, validation)
            theirs = run_nanogpt(Path(scratch), settings)
            theirs["loss"], theirs["parameters"] = judge_nanogpt(Path(scratch), validation, ids)
        ours = spend(options, theirs) if options.budget else reach(options, theirs)
        runs.append({"nanoGPT": theirs, "polytask": ours})
        report.say(f"repeat {repeat + 1}: nanoGPT {theirs['loss']:.4f} in {theirs['seconds']:.1f} s "
                   f"({theirs['step_ms']:.1f} ms a step, {theirs['parameters']:,} parameters); polytask "
                   + (f"{ours['loss']:.4f} in {ours['seconds']:.1f} s" if ours["seconds"] is not None
                      else f"only {ours['loss']:.4f} after all its steps")
                   + f" (step {ours['step']} of {ours['steps']}, {ours['parameters']:,} parameters)")  # fmt: skip
    return {"settings": settings, "changes": options.change, "runs": runs} | verdict(options, runs, report)


def verdict(options: argparse.Namespace, runs: list[dict[str, Any]], report: harness.Report) -> dict[str, Any]:
    loss = statistics.median(run["nanoGPT"]["loss"] for run in runs)
    if options.budget:
        ours = statistics.median(run["polytask"]["loss"] for run in runs)
        report.say(f"in nanoGPT's time: {ours:.4f} against {loss:.4f} nats a character, {ours - loss:+.4f}")
        return {"loss": {"nanoGPT": loss, "polytask": ours}}
    if any(run["polytask"]["seconds"] is None for run in runs):
        report.say("polytask did not reach the loss within its steps; give it more: --change training.steps=N")
        return {"ratio": None}
    ratios = [run["nanoGPT"]["seconds"] / run["polytask"]["seconds"] for run in runs]
    report.say(f"polytask reaches {loss:.4f} {statistics.median(ratios):.2f} times as fast (median of {len(ratios)})")
    return {"ratio": statistics.median(ratios)}


def draw(report: harness.Report, runs: list[dict[str, Any]]) -> None:
    figure, axes = harness.pyplot().subplots(figsize=(7, 4))
    for index, run in enumerate(runs):
        theirs, ours = run["nanoGPT"], run["polytask"]
        names = ("polytask", "nanoGPT, at the end", "nanoGPT, its estimates") if index == 0 else (None,) * 3
        axes.plot(*zip(*[point[:2] for point in ours["curve"]]), color="tab:orange", label=names[0])
        axes.plot(theirs["seconds"], theirs["loss"], "o", color="black", label=names[1])
        axes.plot(*zip(*theirs["estimates"]), ".", color="tab:gray", label=names[2])
    axes.set(xlabel="seconds of training", ylabel="nats a character, validation", ylim=(None, 2.6))
    axes.legend()
    report.picture(figure)


def main() -> None:
    import os

    if sys.argv[1:2] == ["--ours"]:
        return run_polytask(json.loads(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", metavar="PATH", type=Path, required=True, help="a clone of karpathy/nanoGPT")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("POLYTASK_DATA", "."),
                        help=f"holds {SET}/train.parquet and validation.parquet; default $POLYTASK_DATA")  # fmt: skip
    parser.add_argument(
        "--budget", action="store_true", help="the lowest loss in nanoGPT's time, at most its parameters"
    )
    parser.add_argument("--change", action="append", default=[], metavar="KEY=VALUE", help="of our recipe, repeatable")
    parser.add_argument("--every", type=int, default=25, help="steps between our evaluations, whose time is left out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="twenty steps of each: does the script work?")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.every = 1, 10
        options.change += ["training.steps=40", "training.warmup=5"]
    report = harness.Report("shakespeare-budget" if options.budget else "shakespeare", options.out)
    figures = compare(options, report)
    draw(report, figures["runs"])
    report.save(figures)


if __name__ == "__main__":
    main()
