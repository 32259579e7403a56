"""polytask demo: one small model learns every task of the embedded world within minutes, and is asked and judged."""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text as Styled

from polytask.blocksworld import TASKS, baselines, examples, judge
from polytask.blocksworld.judge import given, split_story, wanted
from polytask.errors import ConfigError
from polytask.inference.sampling import Sampling
from polytask.interop.atomic import check_replaceable
from polytask.model import Model
from polytask.models import cost
from polytask.run.assembly import Assembly, read_recipe
from polytask.run.ending import print_next
from polytask.run.live import Spectacle, sample_line
from polytask.run.page import page
from polytask.run.train import is_run, train_recipe
from polytask.tasks import Text, get_task, prompt
from polytask.training.callbacks import Stopped
from polytask.training.checkpoint import publish
from polytask.training.logs import read_log

UNSEEN = 200  # examples that each task is judged on, of scenes that training never saw
KNOWN = 2_000  # training examples that the baselines know
SHOWN = 3
LONGEST = 160  # tokens of an answer; the longest right one has fewer
OBJECTS = (1, 2)


@dataclass
class Judged:
    """One example that was asked."""

    asked: str
    answer: str
    wanted: str
    right: bool


@dataclass
class Report:
    """What demo/report.json says."""

    accuracy: dict[str, float]
    compositional: dict[str, float]
    baselines: dict[str, dict[str, float]]
    seconds: float
    parameters: int
    steps: int
    examples: dict[str, list[Judged]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the examples apart."""
        return {
            "accuracy": self.accuracy,
            "compositional": self.compositional,
            "baselines": self.baselines,
            "seconds": round(self.seconds, 1),
            "parameters": self.parameters,
            "steps": self.steps,
            "unseen_examples_each": UNSEEN,
        }


def demo(out: Path, steps: int | None = None) -> Report | None:
    """Trains recipe `demo`, judges the model, and writes model, report.json and report.html into `out`.

    A demo that was stopped goes on where it was; a finished one begins anew. None where it is stopped.
    """
    console, start = Console(highlight=False), time.monotonic()
    # A shorter run warms up within it.
    recipe = read_recipe("demo", [f"training.steps={steps}", f"training.warmup={min(50, steps // 2)}"] if steps else [])
    run = out / "run"
    resume = _begun(out, run)
    console.print(f"One model is about to learn {len(recipe.data.sources)} tasks from nothing.", markup=False)
    spectacle = Spectacle("polytask demo: from nothing to every task", console)
    result = train_recipe(recipe, run, resume=resume, callbacks=[spectacle], samples=_samples)
    if isinstance(result, Stopped):
        console.print(f"Stopped after step {result.step}. Go on with: polytask demo --out {out}", markup=False)
        return None
    publish(result.model, out)
    console.print(f"{result.message} Now it is asked {UNSEEN} unseen examples of each task.", markup=False)
    report = assess(Model.load(str(out / "model")), time.monotonic() - start, result.step)
    _write(out, report, read_log(run / "log.jsonl"))
    _show(console, report, out)
    return report


def _begun(out: Path, run: Path) -> bool:
    """Is there a run to go on with? What a finished demo left is cleared away; a user's own files are refused."""
    check_replaceable(out / "model")
    for name in ("report.json", "report.html", "run"):
        if (out / name).exists() and not is_run(run):
            raise ConfigError(f"{out / name} is not of a demo and would be written over; choose another --out.")
    if (out / "report.json").exists():
        shutil.rmtree(run)
        (out / "report.json").unlink()
    return (run / "checkpoints").is_dir()


def unseen(task: str, count: int, split: str = "test") -> list[dict[str, Any]]:
    """Examples of scenes that neither training nor validation holds; "compositional" ones show pairs of colour and
    shape that training never did."""
    return list(examples(task, count, split=split, objects=OBJECTS))


def ask_all(model: Model, name: str, rows: Sequence[dict[str, Any]]) -> list[Judged]:
    """Asks about every row and judges by the world's own rules."""
    task = get_task(name)
    prompts = [prompt(task, _asked(name, row)) for row in rows]
    completions = model.produce(prompts, Sampling(max_tokens=LONGEST))
    judged = []
    for row, (completion, *_) in zip(rows, completions):
        answer = _said(task.parse([Text(completion.text, target=True)]))
        judged.append(Judged(given(name, row), answer, wanted(name, row), judge(name, answer, row)))
    return judged


def _asked(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """A story is to be continued from before its closing sentence; other tasks drop their answers themselves."""
    return {"text": split_story(row["text"])[0]} if name == "text" else row


def _said(answer: Any) -> str:
    """An answer as the world's judge reads it; infilling gives one part for each mark."""
    return " ".join(f"{mark} {part}" for mark, part in answer.items()) if isinstance(answer, dict) else str(answer)


def _samples(assembly: Assembly, network: Any) -> Callable[[int], list[str]]:
    """The trainer's function that shows a sample of every task, another one each time."""
    tasks = [source.task for source in assembly.prepared.sources]

    def samples(step: int) -> list[str]:
        model = Model(network, assembly.tokenizer)
        lines = []
        for task in tasks:
            row = next(examples(task, 1, split="validation", start=step, objects=OBJECTS))
            (one,) = ask_all(model, task, [row])
            lines.append(sample_line(task, one.right, one.asked, one.answer))
        return lines

    return samples


def assess(model: Model, seconds: float, steps: int) -> Report:
    """Accuracy of every task on unseen examples beside what answers without understanding reach."""
    accuracy, compositional, floors, shown = {}, {}, {}, {}
    for task in TASKS:
        rows = unseen(task, UNSEEN)
        judged = ask_all(model, task, rows)
        accuracy[task] = _share(judged)
        compositional[task] = _share(ask_all(model, task, unseen(task, UNSEEN, "compositional")))
        floors[task] = baselines(task, rows, list(examples(task, KNOWN, objects=OBJECTS)))
        shown[task] = judged[:SHOWN]
    return Report(accuracy, compositional, floors, seconds, cost.parameters(model.config), steps, shown)


def _share(judged: Sequence[Judged]) -> float:
    return sum(one.right for one in judged) / len(judged)


def _write(out: Path, report: Report, log: Sequence[Mapping[str, Any]]) -> None:
    (out / "report.json").write_text(json.dumps(report.to_dict(), indent=1))
    losses = [(line["step"], line["loss"]) for line in log if "loss" in line]
    shown = {task: [vars(one) for one in asked] for task, asked in report.examples.items()}
    (out / "report.html").write_text(page(report.to_dict(), losses, shown), encoding="utf-8")


def _show(console: Console, report: Report, out: Path) -> None:
    for task, asked in report.examples.items():
        console.print(f"\n[bold cyan]{task}[/]")
        for one in asked:
            console.print(Styled("  " + " ".join(one.asked.split()), style="dim"))
            console.print(Styled("  → " + one.answer.strip(), style="green" if one.right else "red"))
    table = Table(box=None, header_style="bold", title=f"\nright answers to {UNSEEN} unseen examples of each task")
    for column in ("task", "model", "new pairs", *next(iter(report.baselines.values()))):
        table.add_column(column, justify="left" if column == "task" else "right")
    for task, share in report.accuracy.items():
        shares = [report.compositional[task], *report.baselines[task].values()]
        table.add_row(task, f"[bold]{share:.1%}[/]", *(f"{other:.1%}" for other in shares))
    console.print(table)
    console.print("New pairs: scenes with pairs of colour and shape that training never showed.", style="dim")
    minutes = f"{report.seconds / 60:.1f} minutes"
    console.print(f"\n{report.parameters:,} parameters, {report.steps:,} steps, {minutes}. See {out / 'report.html'}")
    model = out / "model"
    print_next(
        [
            f'polytask ask {model} answering --context "A large red circle is at the top." '
            '--question "What colour is the circle?"',
            f'polytask translate {model} "A large red circle is at the top." --to de',
            f"polytask eval {model} --task translation --data blocksworld --limit 100",
            f"polytask serve {model}",
            f"polytask show {model}",
        ],
        console,
    )
