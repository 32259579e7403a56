"""polytask eval --judge: how like real pictures those are that a model draws, by another network's features and labels.

Three sets are told apart. Training pictures are what both others are compared with; the model draws what held-out ones
show, one picture for each; and the held-out ones themselves say what figures real pictures have in so small a number.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from polytask import runtime
from polytask.data.places import judging_split
from polytask.data.sources import GENERATORS, SourceSpec, read
from polytask.errors import ConfigError, DataError
from polytask.evaluation.intervals import bootstrap, wilson
from polytask.evaluation.pictures import Moments, clip_score, frechet_distance, precision_recall
from polytask.evaluation.report import Report, Sample, versions
from polytask.interop import networks
from polytask.interop.folder import fingerprint, locate
from polytask.pictures import Drawing, PictureModel
from polytask.pictures.classifying import PictureClassifier
from polytask.pictures.matching import PictureMatcher
from polytask.run.judge import SAMPLES, SCENES, TOGETHER, Progress, apart, plain

TRAINING = 10_000  # training pictures at most


@dataclass(frozen=True)
class Judge:
    """A network whose features pictures are compared by: a classifier, which names their labels too, or a CLIP, which
    says how well they fit their captions. path: as the user wrote it."""

    path: str
    network: PictureClassifier | PictureMatcher

    @classmethod
    def load(cls, path: str, **loading: Any) -> "Judge":
        """Raises CheckpointError, and ConfigError where the folder holds neither."""
        folder = locate(path)
        if networks.is_classifier(folder):
            return cls(path, PictureClassifier.load(folder, **loading))
        if networks.is_clip(folder):
            return cls(path, PictureMatcher.load(folder, **loading))
        raise ConfigError(f"--judge {path}: it holds neither a classifier of pictures nor a CLIP; name a run of one.")

    def expect(self, model: PictureModel, model_path: str) -> None:
        """Raises ConfigError where it cannot judge what a model draws."""
        network = self.network
        side = network.side if isinstance(network, PictureClassifier) else network.matcher.side
        if side != model.side:
            raise ConfigError(
                f"--judge {self.path}: it reads pictures of {side} pixels a side, and {model_path} draws {model.side}; "
                "name one that was trained at that size."
            )
        known = network.labels if isinstance(network, PictureClassifier) else model.labels
        if missing := [label for label in model.labels if label not in known]:
            raise ConfigError(
                f"--judge {self.path}: it knows the labels {', '.join(known)}, and not '{missing[0]}', which "
                f"{model_path} draws; name one that was trained on the same labels."
            )

    def features(self, pictures: Sequence[Any]) -> Tensor:
        """(N, F)."""
        if isinstance(self.network, PictureClassifier):
            return self.network.features(pictures)
        return self.network.embed(list(pictures))

    def said(self, pictures: Sequence[Any], asked: Sequence[str], labelled: bool) -> dict[str, list[float]]:
        """How well each picture shows what was asked, a label or a caption, by the name of the figure."""
        if isinstance(self.network, PictureMatcher):
            texts = self.network.matcher.embed_texts(asked, cut=True).cpu()
            return {"clip_score": clip_score(self.network.embed(list(pictures)), texts).tolist()}
        if not labelled:
            return {}
        return {"accuracy": [float(label == one) for label, one in zip(self.labels(pictures), asked, strict=True)]}

    def labels(self, pictures: Sequence[Any]) -> list[str]:
        """The likeliest of each picture, of a classifier."""
        assert isinstance(self.network, PictureClassifier)
        return [max(shares, key=shares.__getitem__) for shares in self.network.probabilities(pictures)]


def evaluate_likeness(
    model_path: str, judge_path: str, source: SourceSpec, *, limit: int | None, split: str | None,
    drawing: Mapping[str, Any], ranking: Mapping[str, Any], loading: Mapping[str, Any],
    progress: Progress | None = None,
) -> Report:  # fmt: skip
    """Fréchet distance, precision and recall beside training pictures, and accuracy by the judge's labels or CLIP
    score, of one drawing for each held-out picture of `source` and of those pictures themselves (", real").

    limit: held-out pictures at most. drawing, ranking: as in `run.judge.evaluate_drawing`. Raises ConfigError for a
    judge of another size or other labels, DataError where the data holds nothing out.
    """
    start, wish = time.monotonic(), Drawing.of(drawing)
    if wish.n != 1:
        raise ConfigError("drawing: one picture of each caption is judged; leave out n.")
    runtime.prepare()
    model, judge = PictureModel.load(model_path, **loading), Judge.load(judge_path, **loading)
    if "drawing" not in model.able:
        raise ConfigError(f"--judge: {model_path} changes pictures and draws none; leave it out (--task editing).")
    judge.expect(model, model_path)
    held, training = _sides(source, model, limit, split)
    asked, real = [row["label" if model.labels else "caption"] for row in held], [row["image"] for row in held]
    drawn = _drawn(model, asked, drawing, ranking, progress)
    report = Report("drawing", {}, {}, len(held))
    _compare(report, judge, training, drawn, real)
    for name, pictures in (("", drawn), (", real", real)):
        for figure, values in judge.said(pictures, asked, bool(model.labels)).items():
            report.metrics[figure + name] = sum(values) / len(values)
            shares = figure == "accuracy"
            report.intervals[figure + name] = wilson(sum(values), len(values)) if shares else bootstrap(values)
    if isinstance(judge.network, PictureClassifier) and model.labels:
        report.samples = [Sample(*one) for one in zip(asked, judge.labels(drawn[:SAMPLES]), asked, strict=False)]
    report.notes.append(
        f"{len(drawn):,} pictures were drawn, and {len(real):,} real ones held out; both are compared with "
        f"{len(training):,} of training. Distances of other counts or by another judge do not compare."
    )
    report.reproduce = {"task": "drawing", "shots": 0, "data": source.from_, "limit": limit, "split": split}
    report.reproduce |= versions() | {"model": fingerprint(model.folder.path), "drawing": vars(wish)}
    report.reproduce |= {"judge": fingerprint(judge.network.folder.path), **plain(ranking)}
    report.seconds = time.monotonic() - start
    return report


def _sides(
    source: SourceSpec, model: PictureModel, limit: int | None, split: str | None
) -> tuple[list[dict[str, Any]], list[Any]]:
    """Held-out rows and training pictures. Raises DataError where there are no such two."""
    held, generated = split or judging_split(source.from_, source.base), source.from_ in GENERATORS
    if held in (None, "train"):
        raise DataError(
            f"{source.from_} has no pictures held out beside those for training; name a folder with files of both, "
            "such as train.parquet and validation.parquet."
        )
    options = {"pixels": model.side, **source.options} if generated else source.options
    spec = replace(source, task="classification" if model.labels else "drawing", options=options)
    rows = _rows(replace(spec, split=held, limit=limit or (SCENES if generated else None)))
    return rows, [row["image"] for row in _rows(replace(spec, split="train", limit=TRAINING))]


def _rows(spec: SourceSpec) -> list[dict[str, Any]]:
    rows = list(read(spec))
    if not all("image" in row for row in rows):
        raise DataError(f"{spec.from_} has rows without a picture; say which column holds it: --columns image=...")
    return rows


def _drawn(
    model: PictureModel, asked: Sequence[str], drawing: Mapping[str, Any], ranking: Mapping[str, Any],
    progress: Progress | None,
) -> list[Any]:  # fmt: skip
    drawn: list[Any] = []
    for part in (asked[i : i + TOGETHER] for i in range(0, len(asked), TOGETHER)):
        drawn += [one[0] for one in model.draw_many(part, **ranking, **apart(drawing, len(drawn)))]
        if progress is not None:
            progress(len(drawn), len(asked))
    return drawn


def _compare(report: Report, judge: Judge, training: Sequence[Any], drawn: Sequence[Any], real: Sequence[Any]) -> None:
    beside = judge.features(training)
    moments = Moments().add(beside)
    features = {"": judge.features(drawn), ", real": judge.features(real)}
    for name, own in features.items():
        report.metrics[f"frechet_distance{name}"] = frechet_distance(moments, Moments().add(own))
    for name, own in features.items():
        both = precision_recall(beside, own)
        report.metrics |= {f"precision{name}": both.precision, f"recall{name}": both.recall}
