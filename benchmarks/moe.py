"""Experts against their dense twin at equal FLOPs a token: the share of the training at which they reach its loss.

    python benchmarks/moe.py --data-dir DATA --work FOLDER

Two networks of GLaM's kind (Du et al. 2022) read the bytes of an encyclopedia: every other feed-forward layer is a
mixture of 8 experts, of which each token passes 2, or one layer of twice an expert's inner width. Router apart, a token
meets as many parameters in both. Same batches, steps, rate and schedule; three seeds, of weights and of data. A third
network, of the first seed alone, draws its experts at random, which shows what is due to the router.

The figure of merit is conservative: where the experts pass the twin's last loss, their rate has not fallen to its end.
A run that has ended is kept in FOLDER; the same command goes on with the next. Expect some 10 minutes on two cores.
"""

import argparse
import json
import os
import statistics
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import harness

LAYERS, DIM, HEADS, INNER, EXPERTS, TOP_K, CAPACITY = 2, 32, 4, 128, 8, 2, 2.0
CONTEXT, ROWS, LR, WARMUP = 64, 32, 4e-3, 50
KINDS = ("dense", "experts", "random")
COLORS = {"dense": "tab:gray", "experts": "tab:orange", "random": "tab:blue"}


@dataclass(frozen=True)
class Job:
    kind: str
    seed: int
    steps: int
    every: int

    @property
    def file(self) -> str:
        return f"{self.kind}-{self.seed}-{self.steps}.json"


def config_of(kind: str, vocabulary: int) -> Any:
    from polytask.models.config import TransformerConfig
    from polytask.nn.attention import Attention
    from polytask.nn.experts import Experts
    from polytask.nn.feedforward import MLP, GatedMLP
    from polytask.nn.norm import RMSNorm
    from polytask.nn.position import Rotary

    sparse = Experts(EXPERTS, INNER, TOP_K, capacity=CAPACITY)
    return TransformerConfig(
        vocabulary, CONTEXT, LAYERS, DIM, Attention(HEADS),
        (GatedMLP(2 * INNER, activation="gelu"), MLP(TOP_K * INNER) if kind == "dense" else sparse),
        norm=RMSNorm(), position=Rotary(),
    )  # fmt: skip


def network_of(kind: str, vocabulary: int, seed: int) -> Any:
    from torch import nn

    from polytask.models.transformer import Transformer
    from polytask.nn.experts import Router
    from polytask.nn.surgery import replace

    network = Transformer(config_of(kind, vocabulary)).initialize(seed)
    if kind == "random":

        class Lottery(nn.Module):
            def forward(self, x: Any) -> Any:
                return x.new_empty(len(x), EXPERTS).normal_()

        replace(network, lambda _, module: isinstance(module, Router), lambda _: Lottery())
    return network


def data_of(data: Path) -> tuple[Any, Any]:
    """Prepared bytes and their tokenizer."""
    from polytask.data.prepare import prepare
    from polytask.data.sources import SourceSpec
    from polytask.tokenizers.text import TextTokenizer

    tokenizer = TextTokenizer.bytes()
    source = SourceSpec("text", str(data / "wikipedia_en" / "train.parquet"), name="prose", held_out=0.01)
    return prepare([source], tokenizer), tokenizer


def train(job: Job, prepared: Any, vocabulary: int, batches: int) -> dict[str, Any]:
    """Figures of one run; raises SystemExit where it was stopped."""
    from polytask.data.loader import Loader
    from polytask.models import cost
    from polytask.training.callbacks import Stopped
    from polytask.training.config import TrainingConfig
    from polytask.training.logs import read_log
    from polytask.training.objectives.language import LanguageModelling
    from polytask.training.progress import LiveView
    from polytask.training.trainer import Trainer

    loader = Loader(prepared, ROWS, CONTEXT, seed=job.seed)
    network = network_of(job.kind, vocabulary, job.seed)
    config = TrainingConfig(
        job.steps, lr=LR, warmup=min(WARMUP, job.steps // 4), clip=1.0, seed=job.seed,
        evaluate_every=job.every, log_every=job.every, save_every=0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            network, LanguageModelling(), lambda step, _: loader.batch(step), config, folder, callbacks=[LiveView()],
            validation={"prose": lambda: loader.validation_batches(0, batches)},
        )  # fmt: skip
        result = trainer.run()
        log = read_log(Path(folder) / "log.jsonl")
    if isinstance(result, Stopped):
        raise SystemExit("Stopped; runs that had ended are kept, and the same command goes on after them.")
    curve = [[line["step"], line["evaluation"]["validation_loss"]] for line in log if "evaluation" in line]
    lines = [line for line in log if "tokens_per_second" in line]
    return {
        "curve": curve,
        "flops_per_token": cost.flops_per_token(network.config, CONTEXT),
        "parameters": cost.parameters(network.config),
        "active": cost.active_parameters(network.config),
        "tokens_per_second": statistics.median(line["tokens_per_second"] for line in lines),
        "dropped": lines[-1].get("dropped", 0.0),
        "load": load_of(network, loader.validation_batches(0, batches)),
    }


def load_of(network: Any, batches: Any) -> list[list[float]]:
    """Share of all choices by expert, for each layer of experts."""
    import torch

    from polytask.nn.cache import Context

    shares = []
    with torch.no_grad():
        for batch in batches:
            context = Context(batch.positions, batch.documents)
            network(batch.ids, context)
            shares.append([layer.load for layer in context.take_routing()])
    return [torch.stack(of_layer).mean(0).tolist() for of_layer in zip(*shares)]


def reached(curve: list[list[float]], loss: float) -> float | None:
    """The step at which a falling curve passes `loss`, between its points by a straight line."""
    for (before, high), (after, low) in pairwise(curve):
        if low <= loss < high:
            return before + (after - before) * (high - loss) / (high - low)
    return None


def uneven(load: list[list[float]]) -> float:
    """Coefficient of variation of the experts' load, of the worst layer; 0 where it is even."""
    return max((statistics.pstdev(layer) / statistics.mean(layer) for layer in load), default=0.0)


def summary(runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """For each seed: last losses, the share of the twin's FLOPs that the others need for its loss, load and drops."""
    rows = []
    for seed, dense in enumerate(runs["dense"]):
        goal, spent = dense["curve"][-1][1], dense["curve"][-1][0] * dense["flops_per_token"]
        for kind, found in ((kind, of_kind[seed]) for kind, of_kind in runs.items() if seed < len(of_kind)):
            step = dense["curve"][-1][0] if kind == "dense" else reached(found["curve"], goal)
            share = None if step is None else step * found["flops_per_token"] / spent
            rows.append({
                "seed": seed, "kind": kind, "loss": found["curve"][-1][1], "share": share,
                "load": uneven(found["load"]), "dropped": found["dropped"],
            })  # fmt: skip
    return rows


def show(runs: dict[str, list[dict[str, Any]]], report: harness.Report, options: argparse.Namespace) -> None:
    for kind, found in runs.items():
        one, rates = found[0], [run["tokens_per_second"] for run in found]
        report.say(
            f"{kind}: {one['parameters']:,} parameters, {one['active']:,} of them active, "
            f"{one['flops_per_token'] / 1e6:.2f} MFLOP a token, {statistics.median(rates):,.0f} tokens/s"
        )
    rows = summary(runs)
    report.say(f"{options.steps:,} steps of {ROWS * CONTEXT:,} tokens; share: of the twin's FLOPs, at which its last "
               "loss is reached; load: coefficient of variation over experts; dropped: share of choices")  # fmt: skip
    cells = []
    for row in rows:
        share = "never" if row["share"] is None else f"{row['share']:.0%}"
        load, dropped = f"{row['load']:.2f}", f"{row['dropped']:.1%}"
        cells.append([str(row["seed"]), row["kind"], f"{row['loss']:.4f}", share, load, dropped])
    report.table(["seed", "network", "validation loss, nats a byte", "share", "load", "dropped"], cells)
    figure, axes = harness.pyplot().subplots(figsize=(7, 4.5))
    for kind, found in runs.items():
        for seed, run in enumerate(found):
            flops = [step * ROWS * CONTEXT * run["flops_per_token"] for step, _ in run["curve"]]
            losses = [loss for _, loss in run["curve"]]
            axes.plot(flops, losses, color=COLORS[kind], label=kind if not seed else None, linewidth=1)
    axes.set(xlabel="training FLOPs", ylabel="validation loss, nats a byte", yscale="log")
    axes.legend()
    report.picture(figure)
    report.save({"rows": rows, "runs": runs})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("POLYTASK_DATA", "."),
                        help="holds wikipedia_en/train.parquet with a column text; default $POLYTASK_DATA")  # fmt: skip
    parser.add_argument("--work", type=Path, default=Path("moe-runs"), help="keeps the figures of runs that ended")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1_200)
    parser.add_argument("--quick", action="store_true", help="few steps, one seed: does the script work?")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    options = parser.parse_args()
    if options.quick:
        options.steps, options.seeds = 24, 1
    from polytask import runtime

    runtime.prepare()
    options.work.mkdir(parents=True, exist_ok=True)
    prepared, tokenizer = data_of(options.data_dir)
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for seed in range(options.seeds):
        for kind in KINDS if seed == 0 else KINDS[:-1]:
            job = Job(kind, seed, options.steps, max(1, options.steps // 24))
            kept = options.work / job.file
            if not kept.is_file():
                print(f"{kind}, seed {seed}", flush=True)
                found = train(job, prepared, tokenizer.vocab_size, batches=1 if options.quick else 8)
                fresh = kept.with_suffix(".new")
                fresh.write_text(json.dumps(found) + "\n")
                os.replace(fresh, kept)
            runs[kind].append(json.loads(kept.read_text()))
    show(runs, harness.Report("moe", options.out), options)


if __name__ == "__main__":
    main()
