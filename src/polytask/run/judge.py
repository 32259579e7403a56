"""polytask eval of a model that draws: what its pictures show, read by rule."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from polytask import runtime
from polytask.data.sources import GENERATORS, SourceSpec, read
from polytask.errors import ConfigError, TaskError
from polytask.evaluation.intervals import bootstrap, wilson
from polytask.evaluation.report import Report, Sample, versions
from polytask.interop.folder import fingerprint
from polytask.pictures import Drawing, PictureModel
from polytask.tasks import check, get_task
from polytask.tasks.judging import judged

SCENES = 200  # of each group, where no limit says another number
HELD_OUT = "held-out combinations"  # of colour and shape, which training never shows together
OBJECTS = (1, 2, 3)
TOGETHER = 64  # pictures in one pass
SAMPLES = 3

Progress = Callable[[int, int], None]


def evaluate_drawing(
    model_path: str, source: SourceSpec, *, limit: int | None, split: str | None, drawing: Mapping[str, Any],
    loading: Mapping[str, Any], progress: Progress | None = None,
) -> Report:  # fmt: skip
    """How many pictures are fully right, with the shares of right objects, colours, shapes, sizes and places.

    Of the blocks world scenes of 1, 2 and 3 objects apart and over all, and held-out combinations apart; of a file all
    rows that name a judge. Raises ConfigError for dials out of range, TaskError where nobody judges.
    """
    start, wish = time.monotonic(), Drawing.of(drawing)
    if wish.n != 1:
        raise ConfigError("drawing: one picture of each caption is judged; leave out n.")
    runtime.prepare()
    model = PictureModel.load(model_path, **loading)
    if model.labels:
        raise ConfigError(f"{model_path} draws by label, and no rule reads whether a picture shows one.")
    groups = dict(_groups(source, limit, split, model.side))
    scores: dict[str, list[dict[str, float]]] = {}
    done, total = 0, sum(map(len, groups.values()))
    report = Report("drawing", {}, {}, total)
    for name, rows in groups.items():
        scores[name] = []
        for part in (rows[i : i + TOGETHER] for i in range(0, len(rows), TOGETHER)):
            drawn = model.draw_many([row["caption"] for row in part], **_apart(drawing, done))
            answers = [[pictures[0]] for pictures in drawn]
            scores[name] += judged("drawing", answers, part, "caption")
            done += len(part)
            if progress is not None:
                progress(done, total)
        report.samples += [
            Sample(row["caption"], "right" if score["right"] == 1 else "wrong", "")
            for row, score in zip(rows[:SAMPLES], scores[name], strict=False)
        ]
    _sum_up(report, scores)
    said = {"task": "drawing", "shots": 0, "drawing": vars(wish), "data": source.from_, "limit": limit, "split": split}
    report.reproduce = said | versions() | {"model": fingerprint(model.folder.path)}
    report.seconds = time.monotonic() - start
    return report


def _apart(drawing: Mapping[str, Any], done: int) -> dict[str, Any]:
    """Every batch has noise of its own."""
    return {**drawing, "seed": drawing.get("seed", 0) + done}


def _groups(
    source: SourceSpec, limit: int | None, split: str | None, side: int
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    if source.from_ not in GENERATORS:
        yield "", _rows(source, limit)
        return
    count = limit or SCENES

    def scenes(objects: tuple[int, int], part: str) -> list[dict[str, Any]]:
        options = {"objects": list(objects), "pixels": side, **source.options}
        return _rows(SourceSpec("drawing", source.from_, limit=count, split=part, options=options), count)

    for number in OBJECTS:
        yield f"{number} object{'s' if number > 1 else ''}", scenes((number, number), split or "test")
    if split is None:
        yield HELD_OUT, scenes((OBJECTS[0], OBJECTS[-1]), "compositional")


def _rows(source: SourceSpec, limit: int | None) -> list[dict[str, Any]]:
    task = get_task("drawing")
    rows = [check(task, row) for row, _ in zip(read(source), range(limit or 10**9))]
    if not all(row.get("judge") for row in rows):
        raise TaskError("Task 'drawing': a row names no `judge`, so nothing says whether its picture is right.")
    return rows


def _sum_up(report: Report, scores: Mapping[str, list[dict[str, float]]]) -> None:
    """Figures over all but held-out combinations, then those that are right of each group."""
    every = [score for name, part in scores.items() if name != HELD_OUT for score in part]
    for name in every[0]:
        _put(report, name, [score[name] for score in every])
    for group, part in scores.items():
        if group:
            _put(report, f"right, {group}", [score["right"] for score in part])


def _put(report: Report, name: str, values: Sequence[float]) -> None:
    report.metrics[name] = sum(values) / len(values)
    binary = all(value in (0, 1) for value in values)
    report.intervals[name] = wilson(sum(values), len(values)) if binary else bootstrap(values)
