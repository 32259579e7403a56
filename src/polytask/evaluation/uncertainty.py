"""Which interval belongs to which metric of a task."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polytask.evaluation.intervals import LEAST, RESAMPLES, Interval, bootstrap, bootstrap_of, percentile, wilson
from polytask.evaluation.intervals import draws as resampled
from polytask.tasks.metrics import EACH
from polytask.tasks.segment import Text
from polytask.tasks.task import Task

SECONDS = 8.0  # for the metrics that must be computed anew for each resample


@dataclass
class Uncertainty:
    """Intervals by metric, and a sentence for each thing that a reader should know of them."""

    intervals: dict[str, Interval] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def uncertainty(
    task: Task, answers: list[list[Any]], examples: list[dict[str, Any]], scores: Mapping[str, Any], *, seed: int = 0,
    seconds: float = SECONDS,
) -> Uncertainty:  # fmt: skip
    """Wilson where every example is right or wrong, bootstrap of the mean for other means over examples.

    Metrics of the whole corpus are computed anew for resampled examples: BLEU and chrF from the counts of each example,
    the rest by the task, in as many resamples as `seconds` allow.
    """
    found = Uncertainty()
    metrics = {name: float(value) for name, value in scores.items() if not isinstance(value, str)}
    for name, values in _means(task, answers, examples, metrics).items():
        found.intervals[name] = interval_of_mean(values, seed)
    rest = [name for name in metrics if name not in found.intervals]
    for name in [name for name in rest if name in ("bleu", "chrf")]:
        ends = _from_counts(task, name, answers, examples, scores, seed)
        if ends is not None:
            found.intervals[name] = ends
    rest = [name for name in rest if name not in found.intervals]
    if not rest or len(examples) < 2:
        return found

    def again(rows: np.ndarray) -> dict[str, float]:
        measured = task.metrics([answers[i] for i in rows], [examples[i] for i in rows])
        return {name: float(measured[name]) for name in rest if name in measured}

    intervals, done = bootstrap_of(again, len(examples), RESAMPLES, seed, seconds)
    found.intervals |= intervals
    named = ", ".join(rest[:4]) + (", ..." if rest[4:] else "")
    if not intervals:
        found.notes.append(f"{named}: no interval, since {LEAST} resamples of it would take too long.")
    elif done < RESAMPLES:
        found.notes.append(f"{named}: the interval comes from {done} resamples, not {RESAMPLES}, to save time.")
    return found


def interval_of_mean(values: Sequence[float], seed: int = 0) -> Interval:
    """Wilson where all values are 0 or 1, else bootstrap."""
    if all(value in (0.0, 1.0) for value in values):
        return wilson(sum(values), len(values))
    return bootstrap(values, seed=seed)


def _means(
    task: Task, answers: list[list[Any]], examples: list[dict[str, Any]], metrics: Mapping[str, float]
) -> dict[str, list[float]]:
    """The value of every example, for the metrics that are means over them."""
    found: dict[str, list[float]] = {}
    primary = task.per_example(answers, examples)
    if primary is not None and task.primary in metrics:
        found[task.primary] = primary
    wanted = [name for name in metrics if name not in found and (name in EACH or name.startswith("pass@"))]
    if wanted:
        alone = [task.metrics([answer], [example]) for answer, example in zip(answers, examples)]
        for name in wanted:
            if all(name in scores for scores in alone):
                found[name] = [float(scores[name]) for scores in alone]
    # A task of someone else may mean something else by a name that we know.
    return {
        name: values
        for name, values in found.items()
        if math.isclose(sum(values) / len(values), metrics[name], rel_tol=1e-6, abs_tol=1e-9)
    }


def _from_counts(
    task: Task,
    name: str,
    answers: list[list[Any]],
    examples: list[dict[str, Any]],
    scores: Mapping[str, Any],
    seed: int,
) -> Interval | None:
    """BLEU and chrF are functions of counts that add up over examples, as sacrebleu's own bootstrap has it.

    None where the task compares with something else than its target, which shows in another score.
    """
    predictions = [samples[0] for samples in answers]
    targets = [[s.text for s in task.segments(example) if s.target and isinstance(s, Text)] for example in examples]
    if not all(isinstance(p, str) for p in predictions) or not all(targets):
        return None
    metric = _metric(name, str(scores.get(f"{name}_signature", "")))
    counts = np.array(metric._extract_corpus_statistics(predictions, [[golds[-1] for golds in targets]]))

    def score(rows: np.ndarray) -> float:
        return metric._aggregate_and_compute([rows.tolist()]).score

    if not math.isclose(score(counts.sum(0)), float(scores[name]), rel_tol=1e-6, abs_tol=1e-6):
        return None
    return percentile([score(counts[rows].sum(0)) for rows in resampled(len(counts), RESAMPLES, seed)])


def _metric(name: str, signature: str) -> Any:
    if name == "chrf":
        from sacrebleu.metrics.chrf import CHRF

        return CHRF()
    from sacrebleu.metrics.bleu import BLEU

    parts = dict(part.split(":", 1) for part in signature.split("|") if ":" in part)
    return BLEU(tokenize=parts.get("tok", "13a"))
