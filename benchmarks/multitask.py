"""What one model of many tasks costs each task: recipe `multitask` beside models of one task each.

    python benchmarks/multitask.py --data-dir DATA --work FOLDER

One network, tokenizer, rate and schedule for all. The mixture gives each of its k tasks 1/k of the tokens. Each task's
own model is trained twice: with as many tokens as the task has in the mixture (1/k), and with all that the mixture has.
Beside them stand what answers without understanding reach: the most frequent answer of the training rows, and a copy of
what was asked (of a document its first words, as many as a summary has on average).

A run that has ended is kept in FOLDER; the same command goes on with the next.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import harness

# What of an example is copied, by the name of the source; of a chat it is the last turn before the answer.
COPIED = {
    "multi30k": "source", "babi": "question", "aeslc": "document", "tldr_commands": "prompt", "ag_news": "text",
}  # fmt: skip
LABELS = {"majority": "majority", "copy": "copy", "part": "alone, 1/k", "mixture": "mixture", "full": "alone, all"}


def read(options: argparse.Namespace) -> Any:
    from polytask.run.assembly import read_recipe

    return read_recipe("multitask", options.change, options.data_dir)


def variant(recipe: Any, name: str | None, share: int, rows: int) -> Any:
    """The recipe with one of its sources alone (all for None), 1/share of its steps, one evaluation at the end."""
    steps = recipe.steps // share
    data, evaluation = recipe.data, recipe.evaluation
    sources = [source for source in data.sources if name in (None, source.name)]
    judged = [task.model_copy(update={"limit": rows}) for task in evaluation.tasks if name in (None, task.name)]
    training = {"steps": steps, "warmup": max(1, round(recipe.training.warmup / share)), "save_every": 0}
    return recipe.model_copy(update={
        "name": f"{name or 'mixture'}-{share}",
        "data": data.model_copy(update={"sources": sources}),
        "training": recipe.training.model_copy(update=training),
        "evaluation": evaluation.model_copy(update={"tasks": judged, "every": steps, "samples": 1}),
    })  # fmt: skip


def run_one(asked: dict[str, Any]) -> None:
    """In a process of its own: trains a variant and answers its last evaluation and what it took."""
    from polytask.recipe import Tokenizer
    from polytask.run.assembly import tokenizer_of
    from polytask.run.train import train_recipe
    from polytask.training.callbacks import Callback

    options = argparse.Namespace(change=asked["changes"], data_dir=Path(asked["data"]))
    whole = read(options)
    tokenizer, work = tokenizer_of(whole), Path(asked["work"])
    file = work / "tokenizer.json"
    tokenizer.save(file)
    whole = whole.model_copy(update={"tokenizer": Tokenizer(file=str(file.resolve()))})
    recipe = variant(whole, asked["name"], asked["share"], asked["rows"])

    class Watch(Callback):
        def on_start(self, step: int, steps: int) -> None:
            self.begun = self.clocks()

        def on_step(self, step: int) -> None:
            self.ended = self.clocks()

        def clocks(self) -> tuple[float, float]:
            used = resource.getrusage(resource.RUSAGE_SELF)
            return time.perf_counter(), used.ru_utime + used.ru_stime

    watch = Watch()
    out = work / recipe.name
    shutil.rmtree(out, ignore_errors=True)  # of a run that was cut off; its time would not be that of one run
    result = train_recipe(recipe, out, callbacks=[watch])
    wall, cpu = (end - begin for begin, end in zip(watch.begun, watch.ended))
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    losses = [[line["step"], line["loss"]] for line in log if "loss" in line]
    harness.answer({
        "metrics": dict(result.metrics), "wall": wall, "cpu": cpu, "steps": recipe.steps, "losses": losses,
        "tokens": recipe.steps * recipe.batch_rows * recipe.training.context_length,
    })  # fmt: skip


def trained(options: argparse.Namespace, name: str | None, share: int) -> dict[str, Any]:
    """The figures of a run: those that are kept, else of a run made now."""
    kept = options.work / f"{name or 'mixture'}-{share}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    asked = {"changes": options.change, "data": str(options.data_dir), "work": str(options.work), "name": name}
    figures = harness.ask(__file__, ["--run", json.dumps(asked | {"share": share, "rows": options.rows})])
    kept.write_text(json.dumps(figures))
    return figures


def floors(recipe: Any, rows: int) -> dict[str, dict[str, float]]:
    """By source: what the most frequent answer and a copy reach on the rows that the models are judged on."""
    from dataclasses import replace
    from itertools import islice

    from polytask.data.sources import read as rows_of
    from polytask.tasks import check, get_task

    known = {spec.name: spec for spec in recipe.sources()}
    found = {}
    for said, spec in recipe.evaluated():
        task: Any = get_task(spec.task)
        asked = [check(task, row) for row in islice(rows_of(replace(spec, limit=rows)), rows)]
        learnt = [task.segments(check(task, row))[-1].text for row in rows_of(known[spec.name])]
        words = round(statistics.mean(len(answer.split()) for answer in learnt))
        often = Counter(learnt).most_common(1)[0][0]
        answers = {"majority": [often] * len(asked), "copy": [copied(spec.name, row, words) for row in asked]}
        found[spec.name] = {
            name: task.metrics([[answer] for answer in given], asked)[said.metric] for name, given in answers.items()
        }
    return found


def copied(name: str, row: dict[str, Any], words: int) -> str:
    if name not in COPIED:
        return row["messages"][-2]["content"]
    text = row[COPIED[name]]
    return " ".join(text.split()[:words]) if COPIED[name] == "document" else text


def compare(options: argparse.Namespace, report: harness.Report) -> dict[str, Any]:
    recipe = read(options)
    names = [source.name for source in recipe.data.sources]
    metrics = {task.name: task.metric for task in recipe.evaluation.tasks}
    k = len(names)
    options.work.mkdir(parents=True, exist_ok=True)
    runs = {"mixture": trained(options, None, 1)}
    for share, kind in ((k, "part"), (1, "full")):
        runs |= {f"{name} {kind}": trained(options, name, share) for name in names}
    for name, run in runs.items():
        report.say(f"{name}: {run['steps']} steps, {run['tokens']:,} tokens, {run['wall'] / 60:.1f} minutes, "
                   f"{run['cpu'] / 60:.1f} minutes of CPU time")  # fmt: skip
    found: dict[str, dict[str, Any]] = {name: dict(floor) for name, floor in floors(recipe, options.rows).items()}
    for name in names:
        key = f"{name}/{metrics[name]}"
        of = {"part": runs[f"{name} part"], "mixture": runs["mixture"], "full": runs[f"{name} full"]}
        found[name] |= {kind: run["metrics"][key] for kind, run in of.items()}
        found[name]["losses"] = {kind: validation_loss(run["metrics"], name) for kind, run in of.items()}
    report.say(f"\non {options.rows} validation rows of each")
    rows = [[name, str(metrics[name]), *(f"{found[name][kind]:.3f}" for kind in LABELS)] for name in names]
    report.table(["task", "metric", *LABELS.values()], rows)
    report.say("\nvalidation loss, nats a token of the answer")
    kinds = ("part", "mixture", "full")
    rows = [[name, *(f"{found[name]['losses'][kind]:.3f}" for kind in kinds)] for name in names]
    report.table(["task", *(LABELS[kind] for kind in kinds)], rows)
    return {"k": k, "metrics": metrics, "tasks": found, "runs": runs}


def validation_loss(metrics: dict[str, float], name: str) -> float:
    """Of one source; a run of one source says it without a name."""
    return metrics.get(f"validation_loss/{name}", metrics.get("validation_loss", float("nan")))


def draw(report: harness.Report, figures: dict[str, Any]) -> None:
    tasks = figures["tasks"]
    figure, all_axes = harness.pyplot().subplots(1, len(tasks), figsize=(2.2 * len(tasks), 3.2))
    colors = ["lightgray", "darkgray", "tab:blue", "tab:orange", "tab:green"]
    for axes, (name, found) in zip(all_axes, tasks.items()):
        axes.bar(range(len(LABELS)), [found[kind] for kind in LABELS], color=colors)
        axes.set_xticks(range(len(LABELS)), list(LABELS.values()), rotation=60, ha="right", fontsize=8)
        axes.set_title(f"{name}\n{figures['metrics'][name]}", fontsize=9)
    report.picture(figure)


def main() -> None:
    if sys.argv[1:2] == ["--run"]:
        return run_one(json.loads(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("POLYTASK_DATA", "."),
                        help="holds the recipe's sets; default $POLYTASK_DATA")  # fmt: skip
    parser.add_argument("--work", type=Path, default=Path("runs/multitask-benchmark"), help="where runs are kept")
    parser.add_argument("--rows", type=int, default=300, help="validation rows of each task")
    parser.add_argument("--change", action="append", default=[], metavar="KEY=VALUE", help="of the recipe, repeatable")
    parser.add_argument("--quick", action="store_true", help="twelve steps of each: does the script work?")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    options = parser.parse_args()
    if options.quick:
        options.rows, options.change = 5, [*options.change, "training.steps=12", "training.warmup=2"]
    report = harness.Report("multitask", options.out)
    figures = compare(options, report)
    draw(report, figures)
    report.save(figures)


if __name__ == "__main__":
    main()
