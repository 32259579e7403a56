"""One model for all beside models of one kind each, at the same total compute: recipe `multimodal-blocks`.

    polytask train dvae-blocks
    python benchmarks/one_model.py --work FOLDER

Besides the model of the recipe, others of the same network, rate and schedule learn drawing, captions, edits, questions
about pictures, or the tasks of texts alone, each in the share of the steps that its sources have of the weights: all of
them together take as many steps, and see as many examples of each source, as the one. Judged as in blocks.py.

A run that was stopped goes on with the same command, and one that has ended is kept in FOLDER. `--only drawing` does
one of them; the results gather what all of them came to.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import blocks
import harness

from polytask.run.assembly import read_recipe

ALONE = {
    "drawing": {"drawing"},
    "captioning": {"captioning"},
    "editing": {"editing"},
    "questions": {"seen", "sorted"},
    "texts": {"answering", "summarization", "translation", "text", "chat", "code", "classification", "infilling"},
}
RUNS = ["one", *ALONE]
FIGURES = {
    "drawing": ("drawing", "metrics", "right"), "captioning": ("captioning", "metrics", "right"),
    "editing": ("editing", "metrics", "right"), "questions": ("questions", "right"), "texts": ("texts", "all of them"),
}  # fmt: skip


def variant(recipe: Any, names: set[str] | None) -> Any:
    """The recipe with some of its sources alone, in their share of the steps; with all of them it is the recipe."""
    if names is None:
        return recipe
    sources = [source for source in recipe.data.sources if source.name in names]
    share = sum(source.weight for source in sources) / sum(source.weight for source in recipe.data.sources)
    tasks = {source.task for source in sources}
    watched = [
        one for one in recipe.evaluation.tasks if one.task in tasks and ((one.name == "seen") == ("seen" in names))
    ]
    return recipe.model_copy(update={
        "data": recipe.data.model_copy(update={"sources": sources}),
        "training": recipe.training.model_copy(update={"steps": max(2, round(share * recipe.steps))}),
        "evaluation": recipe.evaluation.model_copy(update={"tasks": watched}),
    })  # fmt: skip


def trained(options: argparse.Namespace, name: str) -> Path:
    recipe = variant(read_recipe("multimodal-blocks", options.set), ALONE.get(name))
    return harness.trained(recipe, options.work, name)


def figure(found: dict[str, Any], name: str, kind: str, said: dict[str, Any]) -> str:
    """How much of a kind a run does right; a dash where it has not been judged, or with other settings."""
    if name not in found or found[name]["settings"] != said:
        return "-"
    value = found[name]
    for key in FIGURES[kind]:
        value = value[key]
    return f"{value:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/one-model"), help="where runs are kept")
    parser.add_argument("--limit", type=int, default=200, help="scenes of each group, examples of each task of texts")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the recipe")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=RUNS, metavar="RUN",
                        help=f"of {', '.join(RUNS)}; figures of others stay as the results have them")  # fmt: skip
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    kept = options.out / "one-model.json"
    found = json.loads(kept.read_text())["runs"] if kept.is_file() else {}
    folders = {name: trained(options, name) for name in options.only}
    report = harness.Report("one-model", options.out)
    changed = [one for one in options.set if not one.startswith("tokenizer.pictures.from=")]
    said = {"limit": options.limit, "set": changed}
    for name, folder in folders.items():
        report.say(f"\n{name}")
        found[name] = blocks.judged(report, folder, options.limit, {}) | {"settings": said, "machine": report.machine}
    rows = [[kind, figure(found, "one", kind, said), figure(found, kind, kind, said)] for kind in ALONE]
    report.say()
    report.table(["fully right", "one model for all", "alone, in its share of the steps"], rows)
    report.save({"runs": found})


if __name__ == "__main__":
    main()
