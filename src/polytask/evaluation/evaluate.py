"""Any task over any examples: asks, judges, and says how sure the figures are."""

import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

from polytask.errors import ConfigError, DataError, TaskError
from polytask.evaluation.intervals import RESAMPLES, bootstrap_of
from polytask.evaluation.perplexity import Perplexity, perplexity, summed
from polytask.evaluation.report import Report, Sample, versions
from polytask.evaluation.uncertainty import uncertainty
from polytask.inference.hooks import Answerer
from polytask.inference.sampling import Sampling
from polytask.inference.scoring import probabilities
from polytask.tasks.picture import png
from polytask.tasks.scoring import told, written
from polytask.tasks.segment import Image, Segment, Text, shown
from polytask.tasks.task import Task, check, draws, prompt

SAMPLES = 3  # shown in a report
Progress = Callable[[int, int], None]


@dataclass
class _Asked:
    """An example with its prompt and, once it is answered, all samples of its answer."""

    example: dict[str, Any]
    prompt: list[Segment]
    choices: list[list[Segment]]
    answers: list[Any] = field(default_factory=list)
    probabilities: dict[str, float] = field(default_factory=dict)


def evaluate(
    answerer: Answerer, task: Task, examples: Iterable[Mapping[str, Any]], *, shots: int = 0,
    shot_examples: Sequence[Mapping[str, Any]] = (), limit: int | None = None, sampling: Sampling | None = None,
    seed: int = 0, batch: int = 32, progress: Progress | None = None, intervals: bool = True,
    fingerprints: Mapping[str, str] | None = None,
) -> Report:  # fmt: skip
    """The task's metrics over the first `limit` examples.

    Where an example has choices, the likeliest is its answer, as it is when a user asks; else the answer is produced
    (sampling.n of them, for pass@k), greedily unless `sampling` says otherwise. A task without metrics is plain text,
    of which a local model's perplexity is measured. shots: solved examples before each question, drawn from
    shot_examples by seed and place, never the one that is asked. progress(done, total) after each batch. intervals:
    False leaves them out. fingerprints: of data and model, for the report. Raises TaskError where an example lacks a
    field or its reference, before anything is asked, and ConfigError or DataError for the rest.
    """
    start = time.monotonic()
    if batch < 1 or shots < 0 or (limit is not None and limit < 1):
        raise ConfigError(
            f"evaluate: batch={batch} and limit={limit} must be at least 1, and shots={shots} not negative."
        )
    rows = [check(task, example) for example in islice(examples, limit)]
    if not rows:
        raise DataError(f"Task '{task.name}': there is no example to evaluate on.")
    sampling = sampling or Sampling()
    if sampling.temperature > 0 and sampling.seed is None:
        sampling = replace(sampling, seed=seed)
    said = {"task": task.name, "shots": shots, "seed": seed, "sampling": asdict(sampling), "limit": limit}
    said |= versions() | dict(fingerprints or {})
    if not task.metric_names:
        report = _predict(answerer, task, rows, shots, seed, progress, intervals)
    else:
        pool = [check(task, example) for example in shot_examples] if shots else []
        asked = _ask(task, rows, draw_shots(rows, shots, pool, seed))
        _check_references(task, rows)
        _answer(answerer, task, asked, sampling, batch, progress)
        report = _judge(task, asked, seed, intervals)
    report.reproduce, report.seconds = said, time.monotonic() - start
    return report


def draw_shots(
    examples: Sequence[Mapping[str, Any]], shots: int, pool: Sequence[Mapping[str, Any]], seed: int
) -> list[list[Mapping[str, Any]]]:
    """The solved examples that go before each example: any of `pool` but itself. Raises DataError where too few are."""
    if not shots:
        return [[] for _ in examples]
    keys = [_key(example) for example in pool]
    copies = Counter(keys)
    found = []
    for index, example in enumerate(examples):
        own = _key(example)
        if len(pool) - copies[own] < shots:
            raise DataError(
                f"{shots} solved examples are wanted before each question, but there are only "
                f"{len(pool) - copies[own]} others; give more rows, or fewer shots."
            )
        drawn = random.Random(f"{seed} {index}").sample(range(len(pool)), min(len(pool), shots + copies[own]))
        found.append([pool[i] for i in drawn if keys[i] != own][:shots])
    return found


def _key(example: Mapping[str, Any]) -> str:
    return json.dumps({k: v for k, v in example.items() if v is not None}, sort_keys=True, default=str)


def _ask(task: Task, rows: list[dict[str, Any]], shots: list[list[Mapping[str, Any]]]) -> list[_Asked]:
    return [_Asked(row, prompt(task, row, given), task.choices(row) or []) for row, given in zip(rows, shots)]


def _check_references(task: Task, rows: list[dict[str, Any]]) -> None:
    """Judges empty answers, so that a missing reference or sandbox is told now and not after an hour of answering."""
    costly = any(name.startswith("pass@") for name in task.metric_names)
    some = rows[:1] if costly else rows
    empty = Image(_white(), target=True) if draws(task) else Text("", target=True)
    task.metrics([[task.parse([empty])] for _ in some], some)


def _white() -> bytes:
    from PIL.Image import new

    return png(new("RGB", (32, 32), "white"))


def _answer(
    answerer: Answerer, task: Task, asked: list[_Asked], sampling: Sampling, batch: int, progress: Progress | None
) -> None:
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        _choose(answerer, task, [one for one in part if one.choices])
        free = [one for one in part if not one.choices]
        completions = answerer.produce([one.prompt for one in free], sampling) if free else []
        for one, samples in zip(free, completions, strict=True):
            one.answers = [task.parse([sample.segment]) for sample in samples]
        if progress is not None:
            progress(start + len(part), len(asked))


def _choose(answerer: Answerer, task: Task, asked: list[_Asked]) -> None:
    if not asked:
        return
    pairs = [(one.prompt, choice) for one in asked for choice in one.choices]
    scores = iter(answerer.score([given for given, _ in pairs], [choice for _, choice in pairs]))
    for one in asked:
        shares = probabilities([next(scores) for _ in one.choices])
        best = max(range(len(shares)), key=shares.__getitem__)
        one.answers = [task.parse(one.choices[best])]
        one.probabilities = {_text(choice): share for choice, share in zip(one.choices, shares)}


def _judge(task: Task, asked: list[_Asked], seed: int, intervals: bool) -> Report:
    answers, rows = [one.answers for one in asked], [one.example for one in asked]
    scores = task.metrics(answers, rows)
    report = Report(
        task=task.name,
        metrics={name: float(value) for name, value in scores.items() if not isinstance(value, str)},
        intervals={},
        examples=len(asked),
        samples=[_sample(task, one) for one in asked[:SAMPLES]],
        signatures={name.replace("_signature", ""): v for name, v in scores.items() if isinstance(v, str)},
    )
    if intervals:
        found = uncertainty(task, answers, rows, scores, seed=seed)
        report.intervals = {name: found.intervals[name] for name in report.metrics if name in found.intervals}
        report.notes = found.notes
    return report


def _sample(task: Task, one: _Asked) -> Sample:
    targets = [shown(segment) for segment in task.segments(one.example) if segment.target]
    return Sample(_text(one.prompt), told(one.answers[0]), targets[-1] if targets else "", one.probabilities)


def _text(segments: Sequence[Segment]) -> str:
    return "\n".join(map(shown, segments))


def _predict(
    answerer: Any, task: Task, rows: list[dict[str, Any]], shots: int, seed: int, progress: Progress | None,
    intervals: bool,
) -> Report:  # fmt: skip
    """Perplexity of documents; intervals over documents, which are what was drawn from a world of texts."""
    if not hasattr(answerer, "network") or not hasattr(answerer, "tokenizer"):
        raise TaskError(
            f"Task '{task.name}' has no metrics of answers: its perplexity is measured, which needs a model that is "
            "loaded here."
        )
    if shots:
        raise ConfigError(f"Task '{task.name}' is measured by perplexity and asks nothing; leave out the shots.")
    documents = [written([segment for segment in task.segments(row) if segment.target]) for row in rows]
    found = perplexity(answerer, answerer.tokenizer, documents, progress=progress)
    report = Report(task.name, _figures(found), {}, len(rows))
    if intervals and len(rows) > 1:
        report.intervals, _ = bootstrap_of(
            lambda drawn: _figures(summed([found.documents[i] for i in drawn])), len(rows), RESAMPLES, seed
        )
    return report


def _figures(found: Perplexity) -> dict[str, float]:
    figures = {"loss": found.loss, "perplexity": found.perplexity, "bits_per_byte": found.bits_per_byte}
    return {name: value for name, value in figures.items() if not math.isnan(value)}
