"""polytask eval --judge: how like real pictures those are that a model draws, by another network's features and labels.

Three sets are told apart. Training pictures are what both others are compared with; the model draws what held-out ones
show, one picture for each; and the held-out ones themselves say what figures real pictures have in so small a number.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from polytask import runtime
from polytask.data.places import judging_split
from polytask.data.sources import GENERATORS, SourceSpec, read
from polytask.errors import ConfigError, DataError
from polytask.evaluation.pictures import Moments, clip_score, frechet_distance, precision_recall
from polytask.evaluation.report import Report, Sample, versions
from polytask.interop import networks
from polytask.interop.folder import fingerprint, locate
from polytask.model import Model
from polytask.pictures import PictureModel
from polytask.pictures.classifying import PictureClassifier
from polytask.pictures.matching import PictureMatcher
from polytask.run.ask import open_any
from polytask.run.judge import SAMPLES, SCENES, TOGETHER, Progress, apart, plain, put

TRAINING = 10_000  # training pictures at most
CHANCE = {"temperature": 1.0, "seed": 0}  # of a model that draws token by token, whose likeliest pictures are few


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

    def expect(self, path: Path, draws: int, labels: Sequence[str]) -> None:
        """Raises ConfigError where it cannot judge what the model of `path` draws: pictures of so many pixels a side,
        of labels where it draws by those."""
        network = self.network
        side = network.side if isinstance(network, PictureClassifier) else network.matcher.side
        if side != draws:
            raise ConfigError(
                f"--judge {self.path}: it reads pictures of {side} pixels a side, and {path} draws {draws}; "
                "name one that was trained at that size."
            )
        known = network.labels if isinstance(network, PictureClassifier) else labels
        if missing := [label for label in labels if label not in known]:
            raise ConfigError(
                f"--judge {self.path}: it knows the labels {', '.join(known)}, and not '{missing[0]}', which "
                f"{path} draws; name one that was trained on the same labels."
            )

    def features(self, pictures: Sequence[Any]) -> Tensor:
        """(N, F)."""
        if isinstance(self.network, PictureClassifier):
            return self.network.features(pictures)
        return self.network.embed(list(pictures))

    def said(self, pictures: Sequence[Any], asked: Sequence[str]) -> dict[str, list[float]]:
        """How well each picture shows what was asked, by the name of the figure; a classifier knows its own labels
        alone."""
        if isinstance(self.network, PictureMatcher):
            texts = self.network.matcher.embed_texts(asked, cut=True).cpu()
            return {"clip_score": clip_score(self.network.embed(list(pictures)), texts).tolist()}
        if not set(asked) <= set(self.network.labels):
            return {}
        return {"accuracy": [float(label == one) for label, one in zip(self.labels(pictures), asked, strict=True)]}

    def labels(self, pictures: Sequence[Any]) -> list[str]:
        """The likeliest of each picture, of a classifier."""
        assert isinstance(self.network, PictureClassifier)
        return [max(shares, key=shares.__getitem__) for shares in self.network.probabilities(pictures)]


def evaluate_likeness(
    folder: Path, judge_path: str, source: SourceSpec, *, limit: int | None, split: str | None,
    dials: Mapping[str, Any], ranking: Mapping[str, Any], loading: Mapping[str, Any], progress: Progress | None = None,
) -> Report:  # fmt: skip
    """Fréchet distance, precision and recall beside training pictures, and accuracy by the judge's labels or CLIP
    score, of one drawing for each held-out picture of `source` and of those pictures themselves (", real").

    limit: held-out pictures at most. dials: fields of `pictures.Drawing`, or of Sampling where the model draws token by
    token, then at temperature 1 unless said. ranking: candidates and clip of the model's `draw`. Raises ConfigError
    for a model that draws nothing, and for a judge of another size or other labels; DataError where the data holds
    nothing out.
    """
    start = time.monotonic()
    runtime.prepare()
    model = open_any(folder, **loading)
    side, labels = _drawing(model, folder)
    wish, dials = _wish(model, dials)
    judge = Judge.load(judge_path, **{name: loading[name] for name in ("dtype", "device") if name in loading})
    judge.expect(folder, side, labels)
    task, name = ("classification", "label") if labels else ("drawing", "caption")
    held, training = _sides(source, task, side, limit, split)
    asked, real = [row[name] for row in held], [row["image"] for row in held]
    drawn = _drawn(model, asked, dials, ranking, progress)
    report = Report("drawing", {}, {}, len(held))
    _compare(report, judge, training, drawn, real)
    for name, pictures in (("", drawn), (", real", real)):
        for figure, values in judge.said(pictures, asked).items():
            put(report, figure + name, values)
    if "accuracy" in report.metrics:
        report.samples = [Sample(*one) for one in zip(asked, judge.labels(drawn[:SAMPLES]), asked, strict=False)]
    report.notes.append(
        f"{len(drawn):,} pictures were drawn, and {len(real):,} real ones held out; both are compared with "
        f"{len(training):,} of training. Distances of other counts or by another judge do not compare."
    )
    report.reproduce = {"task": "drawing", "shots": 0, "data": source.from_, "limit": limit, "split": split}
    report.reproduce |= versions() | {"model": fingerprint(folder), **wish}
    report.reproduce |= {"judge": fingerprint(judge.network.folder.path), **plain(ranking)}
    report.seconds = time.monotonic() - start
    return report


def _wish(model: Any, dials: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """(what decides the drawings, by the name of its kind; the dials to draw by). Raises ConfigError for wrong ones."""
    if isinstance(model, Model):
        dials = {**CHANCE, **dials}
    wish = model.sampling("drawing", **dials) if isinstance(model, Model) else model.wish(dials)
    if wish.n != 1:
        raise ConfigError("drawing: one picture of each caption is judged; leave out n.")
    said = {"sampling": vars(wish)} if isinstance(model, Model) else {"drawing": model.told(dials)}
    return said, dials


def _drawing(model: Model | PictureModel, folder: Path) -> tuple[int, list[str]]:
    """(the side of its pictures in pixels, the labels it draws by where those are all it reads). Raises ConfigError
    where it draws none."""
    if "drawing" not in model.able:
        does = "writes" if isinstance(model, Model) else "changes pictures"
        raise ConfigError(f"--judge: {folder} {does} and draws none; leave it out.")
    if isinstance(model, PictureModel):
        return model.side, model.labels
    assert model.tokenizer.drawing is not None  # else it would not be able
    return model.tokenizer.drawing.size, []


def _sides(
    source: SourceSpec, task: str, side: int, limit: int | None, split: str | None
) -> tuple[list[dict[str, Any]], list[Any]]:
    """Held-out rows and training pictures. Raises DataError where there are no such two."""
    held = split or judging_split(source.from_, source.base)
    if held in (None, "train"):
        raise DataError(
            f"{source.from_} has no pictures held out beside those for training; name a folder with files of both, "
            "such as train.parquet and validation.parquet."
        )
    rows = pictures_of(replace(source, split=held, limit=limit), task, side)
    return rows, [row["image"] for row in pictures_of(replace(source, split="train", limit=TRAINING), task, side)]


def pictures_of(source: SourceSpec, task: str, side: int) -> list[dict[str, Any]]:
    """Rows of a task with pictures, which a generated world draws at `side` pixels and SCENES of where no limit says
    another number; of captioning they need no captions. Raises DataError where a row has none."""
    spec = replace(source, task=task)
    if spec.from_ in GENERATORS:
        spec = replace(spec, options={"pixels": side, **spec.options}, limit=spec.limit or SCENES)
    rows = list(read(spec, answered=task != "captioning"))
    if not all("image" in row for row in rows):
        raise DataError(f"{spec.from_} has rows without a picture; say which column holds it: --columns image=...")
    return rows


def _drawn(
    model: Model | PictureModel, asked: Sequence[str], dials: Mapping[str, Any], ranking: Mapping[str, Any],
    progress: Progress | None,
) -> list[Any]:  # fmt: skip
    drawn: list[Any] = []
    for part in (asked[i : i + TOGETHER] for i in range(0, len(asked), TOGETHER)):
        drawn += [one[0] for one in model.draw_many(part, **ranking, **apart(dials, len(drawn)))]
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
