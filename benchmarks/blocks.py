"""A model of pictures of the blocks world, judged by rule on unseen scenes, with a sheet of its drawings.

    polytask train dvae-blocks && polytask train dalle-blocks
    python benchmarks/blocks.py runs/dalle-blocks
    polytask train multimodal-blocks && python benchmarks/blocks.py runs/multimodal-blocks
    polytask train vision-blocks && python benchmarks/blocks.py runs/vision-blocks
    polytask train imagen-blocks && python benchmarks/blocks.py runs/imagen-blocks
    python benchmarks/blocks.py runs/dalle-blocks --name dalle-blocks-best \\
        --dials candidates=16 clip=runs/clip-blocks temperature=0.5

Of what the model learned: drawing, captioning and editing on 200 scenes of 1, 2 and 3 objects each and 200 with pairs
of colour and shape that training never showed; 600 questions about pictures; the tasks of texts on 200 examples each,
as `polytask demo` judges them. On the sheet are the first eight drawings of 1, 2 and 3 objects, and of the pairs, a row
each; wrong ones have a black frame. Of a model that changes pictures by diffusion there is no sheet.
"""

import argparse
from pathlib import Path
from typing import Any

import harness
import yaml
from PIL.ImageOps import expand

import polytask as pt
from polytask.blocksworld import TASKS, judge
from polytask.blocksworld.drawn import right
from polytask.data.sources import SourceSpec, read
from polytask.evaluation.intervals import wilson
from polytask.pictures import PictureModel
from polytask.run.demo import ask_all, unseen
from polytask.run.evaluate import evaluate
from polytask.tasks.picture import contact_sheet

GROUPS = [("test", [n, n]) for n in (1, 2, 3)] + [("compositional", [1, 3])]

SAMPLED = ("temperature", "top_k", "top_p")  # of models that draw token by token
QUESTIONS = {"right": "test", "right, held-out combinations": "compositional"}


def drawings(model: Any, count: int, dials: dict[str, Any]) -> list[Any]:
    captions = []
    for split, objects in GROUPS:
        rows = read(SourceSpec("drawing", "blocksworld", limit=count, split=split, options={"objects": objects}))
        captions += [row["caption"] for row in rows]
    drawn = [pictures[0] for pictures in model.draw_many(captions, **dials)]
    frames = ["white" if right(picture, caption) else "black" for picture, caption in zip(drawn, captions)]
    return [expand(picture, 2, frame) for picture, frame in zip(drawn, frames)]


def questions(model: Any, count: int, split: str = "test") -> list[bool]:
    """Which answers about pictures are right."""
    spec = SourceSpec("answering", "blocksworld", limit=count, split=split, options={"pixels": 32})
    rows = list(read(spec))
    asked = [{name: value for name, value in row.items() if name != "answer"} for row in rows]
    answers = model.ask_many("answering", asked, temperature=0.0)
    return [judge("answering", str(answer), row) for answer, row in zip(answers, rows)]


def shares(report: harness.Report, found: dict[str, list[bool]]) -> dict[str, float]:
    for name, judged in found.items():
        low, high = wilson(sum(judged), len(judged))
        report.say(f"  {name:30}  {sum(judged) / len(judged):.4f}   95% interval {low:.4f} to {high:.4f}")
    return {name: sum(judged) / len(judged) for name, judged in found.items()}


def learned(model: Any) -> set[str]:
    """What a model is judged on: tasks, "questions" about pictures, and "texts" for all tasks of those."""
    if isinstance(model, PictureModel):
        return {"editing" if model.config.changes else "drawing"}
    names = {source["name"] for source in model.about["data"]}
    found = {"drawing", "captioning", "editing"} & set(model.about["tasks"])
    return found | ({"questions"} if "seen" in names else set()) | ({"texts"} if set(TASKS) <= names else set())


def judged(report: harness.Report, path: Path, limit: int, dials: dict[str, Any]) -> dict[str, Any]:
    """The figures of all that a model learned, which are told, too."""
    model, found = pt.load(path), {}
    kinds, sampling = learned(model), {name: value for name, value in dials.items() if name in SAMPLED}
    dials = {name: value for name, value in dials.items() if name not in SAMPLED}
    for task in ("drawing", "captioning", "editing"):
        if task in kinds:
            figures = evaluate(
                str(path), task, "blocksworld", {}, {}, limit=limit, drawing=dials, sampling=sampling, quiet=True
            )
            for line in figures.lines():
                report.say(line)
            found[task] = figures.to_dict()
    if "questions" in kinds:
        report.say(f"questions about pictures, {3 * limit}, and as many about new pairs")
        asked = {name: questions(model, 3 * limit, split) for name, split in QUESTIONS.items()}
        found["questions"] = shares(report, asked)
    if "texts" in kinds:
        report.say(f"tasks of texts, {limit} examples each")
        texts = {task: [one.right for one in ask_all(model, task, unseen(task, limit))] for task in TASKS}
        found["texts"] = shares(report, texts | {"all of them": [one for each in texts.values() for one in each]})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--name", default="", help="of the results; the folder's where not given")
    parser.add_argument("--limit", type=int, default=200, help="scenes of each group, examples of each task of texts")
    parser.add_argument(
        "--dials", nargs="+", default=[], metavar="NAME=VALUE", help="how it draws, where not as it does by itself"
    )
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    words = parser.parse_args()
    dials = {name: yaml.safe_load(value) for name, value in (dial.split("=", 1) for dial in words.dials)}
    report = harness.Report(words.name or words.model.name, words.out)
    found = judged(report, words.model, words.limit, dials)
    report.save(found | ({"dials": dials} if dials else {}))
    if "drawing" in found:
        sheet = contact_sheet(drawings(pt.load(words.model), 8, dials), columns=8, scale=3)
        sheet.save(words.out / f"{report.name}.png")


if __name__ == "__main__":
    main()
