"""The systems of the field under one budget: every recipe NAME-tiny, trained on the same data and judged alike.

    python benchmarks/systems.py --work FOLDER

Each trains in a process of its own; its figures are kept in FOLDER/NAME.json, and the same command goes on with the
next. A system that was cut off begins again, so that its seconds are those of one run. The loss is that of validation
after the last step, in nats a token of what is to be learnt. Accuracy is that of `polytask demo`: right answers to
examples of scenes that training never saw.
"""

import argparse
import json
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import harness


def names() -> list[str]:
    from polytask.recipe import names

    return [name for name in names() if name.endswith("-tiny")]


def run_one(asked: dict[str, Any]) -> None:
    """In a process of its own: trains a recipe and judges its model."""
    from polytask.model import Model
    from polytask.models import cost
    from polytask.run.assembly import read_recipe
    from polytask.run.demo import ask_all, unseen
    from polytask.run.train import train_recipe
    from polytask.training.callbacks import Callback

    recipe = read_recipe(asked["name"], asked["changes"])
    recipe = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"every": recipe.steps})})

    class Watch(Callback):
        def on_start(self, step: int, steps: int) -> None:
            self.begun = clocks()

        def on_step(self, step: int) -> None:
            self.ended = clocks()

    watch, out = Watch(), Path(asked["work"]) / recipe.name
    shutil.rmtree(out, ignore_errors=True)
    result = train_recipe(recipe, out, callbacks=[watch])
    wall, cpu = (end - begin for begin, end in zip(watch.begun, watch.ended))
    model = Model.load(str(out / "model"))
    tokens = recipe.steps * recipe.batch_rows * recipe.training.context_length
    tokens *= 2 if model.config.encoder_layers else 1
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    tasks = [source.task for source in recipe.data.sources]
    accuracy = {}
    for task in tasks:
        judged = ask_all(model, task, unseen(task, asked["examples"]))
        accuracy[task] = sum(one.right for one in judged) / len(judged)
    harness.answer({
        "loss": result.metrics["validation_loss"], "accuracy": accuracy, "tokens": tokens, "wall": wall, "cpu": cpu,
        "parameters": cost.parameters(model.config), "active": cost.active_parameters(model.config),
        "losses": [[line["step"], line["loss"]] for line in log if "loss" in line],
    })  # fmt: skip


def clocks() -> tuple[float, float]:
    """Seconds by the wall, and of this process's CPU time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), used.ru_utime + used.ru_stime


def trained(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """The figures of a recipe: those that are kept of the same request, else of a run made now."""
    kept = options.work / f"{name}.json"
    asked = {"name": name, "changes": options.change, "work": str(options.work), "examples": options.examples}
    if kept.is_file() and (found := json.loads(kept.read_text()))["asked"] == asked:
        return found
    figures = {"asked": asked, **harness.ask(__file__, ["--run", json.dumps(asked)])}
    kept.write_text(json.dumps(figures))
    return figures


def compare(options: argparse.Namespace, report: harness.Report) -> dict[str, Any]:
    options.work.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in options.only or names():
        found[name.removesuffix("-tiny")] = run = trained(options, name)
        report.say(f"{name}: {run['tokens']:,} tokens in {run['wall']:.0f} s, {run['cpu']:.0f} s of CPU time")
    tasks = list(next(iter(found.values()))["accuracy"])
    report.say(f"\nright answers to {options.examples} unseen examples of each task, in percent")
    rows = [
        [name, f"{run['parameters']:,}", f"{run['active']:,}", f"{run['tokens'] / run['wall']:,.0f}",
         f"{run['loss']:.3f}", *(f"{100 * run['accuracy'][task]:.0f}" for task in tasks), f"{100 * mean(run):.1f}"]
        for name, run in found.items()
    ]  # fmt: skip
    report.table(["system", "parameters", "active", "tokens/s", "loss", *tasks, "mean"], rows)
    return {"examples": options.examples, "systems": found}


def mean(run: dict[str, Any]) -> float:
    return sum(run["accuracy"].values()) / len(run["accuracy"])


def draw(report: harness.Report, figures: dict[str, Any]) -> None:
    """Losses over the run, and accuracy by task."""
    found = figures["systems"]
    figure, (curves, bars) = harness.pyplot().subplots(1, 2, figsize=(13, 4.5), width_ratios=(1, 2))
    for name, run in found.items():
        curves.plot(*zip(*run["losses"]), label=name)
    curves.set_xlabel("step")
    curves.set_ylabel("training loss, nats a token")
    curves.legend(fontsize=8)
    tasks, width = list(next(iter(found.values()))["accuracy"]), 0.8 / len(found)
    for index, (name, run) in enumerate(found.items()):
        places = [place + (index - (len(found) - 1) / 2) * width for place in range(len(tasks))]
        bars.bar(places, [100 * run["accuracy"][task] for task in tasks], width, label=name)
    bars.set_xticks(range(len(tasks)), tasks, rotation=20)
    bars.set_ylabel("right answers, %")
    report.picture(figure)


def main() -> None:
    if sys.argv[1:2] == ["--run"]:
        return run_one(json.loads(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/systems-benchmark"), help="where runs are kept")
    parser.add_argument("--examples", type=int, default=200, help="unseen examples of each task")
    parser.add_argument("--only", nargs="+", metavar="RECIPE", help="of these recipes alone, such as palm-tiny")
    parser.add_argument("--change", action="append", default=[], metavar="KEY=VALUE", help="of the recipes, repeatable")
    parser.add_argument("--quick", action="store_true", help="four steps of each: does the script work?")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    options = parser.parse_args()
    if options.quick:
        options.examples = 2
        options.change = [*options.change, "training.steps=4", "training.warmup=1", "training.batch_rows=4"]
    report = harness.Report("systems", options.out)
    figures = compare(options, report)
    draw(report, figures)
    report.save(figures)


if __name__ == "__main__":
    main()
