"""polytask eval of pictures: what is drawn, or said of them, read by rule."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from polytask import runtime
from polytask.data.sources import GENERATORS, SourceSpec, read
from polytask.errors import ConfigError, TaskError
from polytask.evaluation.intervals import bootstrap, wilson
from polytask.evaluation.report import Report, Sample, versions
from polytask.inference.sampling import Sampling
from polytask.interop.folder import fingerprint, locate
from polytask.model import Model
from polytask.pictures import PictureModel
from polytask.tasks import check, get_task
from polytask.tasks.judging import judged

SCENES = 200  # of each group, where no limit says another number
HELD_OUT = "held-out combinations"  # of colour and shape, which training never shows together
OBJECTS = (1, 2, 3)
TOGETHER = 64  # pictures in one pass
SAMPLES = 3
WANTED = {"drawing": "caption", "captioning": "caption", "editing": "edited"}  # with what an answer is compared

Progress = Callable[[int, int], None]
Answering = Callable[[list[dict[str, Any]], int], list[Any]]


def evaluate_drawing(
    model_path: str, source: SourceSpec, *, limit: int | None, split: str | None, drawing: Mapping[str, Any],
    ranking: Mapping[str, Any], loading: Mapping[str, Any], progress: Progress | None = None,
) -> Report:  # fmt: skip
    """`judge` of a model that draws by diffusion, by captions or, where it changes pictures, by instructions. ranking:
    candidates and clip of `PictureModel.draw`. Raises ConfigError for dials out of range, and for another task than
    the model's."""
    runtime.prepare()
    model = PictureModel.load(model_path, **loading)
    if model.wish(drawing).n != 1:
        raise ConfigError("drawing: one picture of each caption is judged; leave out n.")
    if model.labels:
        raise ConfigError(
            f"{model_path} draws by label, and no rule reads whether a picture shows one; name a classifier: --judge."
        )

    does, fitting = ("changes", "editing") if model.config.changes else ("draws", "drawing")
    if source.task != fitting:
        raise ConfigError(f"--task {source.task}: {model_path} {does} pictures; it is judged by task {fitting}.")
    if ranking and model.config.changes:
        raise ConfigError(
            f"--{next(iter(ranking))}: a CLIP fits pictures to captions, not to instructions; leave it out."
        )

    long = 0

    def draw(rows: list[dict[str, Any]], done: int) -> list[Any]:
        nonlocal long
        fits = [model.painter.fits(_asked(fitting, row)) for row in rows]
        rows, long = [row for row, fit in zip(rows, fits) if fit], long + fits.count(False)
        asked, words = [_asked(fitting, row) for row in rows], apart(drawing, done)
        if not rows:
            drawn = []
        elif model.config.changes:
            drawn = model.edit_many([row["image"] for row in rows], asked, resize=True, **words)
        else:
            drawn = model.draw_many(asked, **ranking, **words)
        pictures = iter(drawn)
        return [next(pictures)[0] if fit else "" for fit in fits]

    report = judge(str(source.task), draw, source, model.side, limit=limit, split=split, progress=progress)
    report.reproduce |= {"drawing": model.told(drawing), "model": fingerprint(model.folder.path), **plain(ranking)}
    if long:
        prompts = f"{long:,} prompts were" if long > 1 else "1 prompt was"
        report.notes.append(f"{prompts} longer than the model reads; nothing was drawn of them, which counts as wrong.")
    return report


def evaluate_seen(
    model: Model, folder: Path, source: SourceSpec, *, limit: int | None, split: str | None,
    sampling: Mapping[str, Any], ranking: Mapping[str, Any], progress: Progress | None = None,
) -> Report:  # fmt: skip
    """`judge` of a decoder over texts and pictures, greedily unless `sampling` says otherwise. ranking: candidates and
    clip of `Model.draw`. Raises TaskError for a model of texts, ConfigError where several answers are wanted."""
    name, pictures = str(source.task), model.tokenizer.pictures
    if Sampling(**sampling).n != 1:
        raise ConfigError("One answer to each example is judged by rule; leave out n.")
    if pictures is None:
        raise TaskError(f"Task '{name}' is about pictures, and {folder} holds a model of texts alone.")

    def answer(rows: list[dict[str, Any]], done: int) -> list[Any]:
        if ranking:
            drawn = model.draw_many([row["caption"] for row in rows], **{**sampling, **ranking})
            return [pictures[0] for pictures in drawn]
        asked = [{key: value for key, value in row.items() if key != WANTED[name] or name == "drawing"} for row in rows]
        return model.ask_many(name, asked, **{"temperature": 0.0, **sampling})

    report = judge(name, answer, source, pictures.size, limit=limit, split=split, progress=progress)
    report.reproduce |= {"sampling": vars(Sampling(**sampling)), "model": fingerprint(folder), **plain(ranking)}
    return report


def judge(
    task: str, answer: Answering, source: SourceSpec, side: int, *, limit: int | None, split: str | None,
    progress: Progress | None = None,
) -> Report:  # fmt: skip
    """How many answers are fully right, with the shares of right objects, colours, shapes, sizes and places.

    Of the blocks world scenes of 1, 2 and 3 objects apart and over all, and held-out combinations apart; of a file all
    rows that name a judge. answer(rows, rows answered before): an answer for each row. side: of the pictures, in
    pixels. Raises TaskError where nobody judges.
    """
    start, groups = time.monotonic(), dict(_groups(task, source, limit, split, side))
    scores: dict[str, list[dict[str, float]]] = {}
    done, total = 0, sum(map(len, groups.values()))
    report = Report(task, {}, {}, total)
    for name, rows in groups.items():
        scores[name] = []
        for part in (rows[i : i + TOGETHER] for i in range(0, len(rows), TOGETHER)):
            scores[name] += judged(task, [[one] for one in answer(part, done)], part, WANTED[task])
            done += len(part)
            if progress is not None:
                progress(done, total)
        report.samples += [
            Sample(_asked(task, row), "right" if score["right"] == 1 else "wrong", "")
            for row, score in zip(rows[:SAMPLES], scores[name], strict=False)
        ]
    _sum_up(report, scores)
    report.reproduce = {"task": task, "shots": 0, "data": source.from_, "limit": limit, "split": split} | versions()
    report.seconds = time.monotonic() - start
    return report


def _asked(task: str, row: Mapping[str, Any]) -> str:
    return row["instruction"] if task == "editing" else row["caption"]


def plain(ranking: Mapping[str, Any]) -> dict[str, Any]:
    """For JSON: a CLIP by its folder's fingerprint."""
    return {**ranking, **({"clip": fingerprint(locate(ranking["clip"]))} if "clip" in ranking else {})}


def apart(drawing: Mapping[str, Any], done: int) -> dict[str, Any]:
    """Every batch has noise of its own."""
    return {**drawing, "seed": drawing.get("seed", 0) + done}


def _groups(
    task: str, source: SourceSpec, limit: int | None, split: str | None, side: int
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    if source.from_ not in GENERATORS:
        yield "", _rows(source, limit)
        return
    count = limit or SCENES

    def scenes(objects: tuple[int, int], part: str) -> list[dict[str, Any]]:
        options = {"objects": list(objects), "pixels": side, **source.options}
        return _rows(SourceSpec(task, source.from_, limit=count, split=part, options=options), count)

    for number in OBJECTS:
        yield f"{number} object{'s' if number > 1 else ''}", scenes((number, number), split or "test")
    if split is None:
        yield HELD_OUT, scenes((OBJECTS[0], OBJECTS[-1]), "compositional")


def _rows(source: SourceSpec, limit: int | None) -> list[dict[str, Any]]:
    task = get_task(str(source.task))
    rows = [check(task, row) for row, _ in zip(read(source), range(limit or 10**9))]
    if not all(row.get("judge") for row in rows):
        raise TaskError(f"Task '{task.name}': a row names no `judge`, so nothing says whether its answer is right.")
    return rows


def _sum_up(report: Report, scores: Mapping[str, list[dict[str, float]]]) -> None:
    """Figures over all but held-out combinations, then those that are right of each group."""
    every = [score for name, part in scores.items() if name != HELD_OUT for score in part]
    for name in every[0]:
        put(report, name, [score[name] for score in every])
    for group, part in scores.items():
        if group:
            put(report, f"right, {group}", [score["right"] for score in part])


def put(report: Report, name: str, values: Sequence[float]) -> None:
    """The mean of a figure of each example, with its interval."""
    report.metrics[name] = sum(values) / len(values)
    binary = all(value in (0, 1) for value in values)
    report.intervals[name] = wilson(sum(values), len(values)) if binary else bootstrap(values)
