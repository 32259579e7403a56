"""Classification of texts and pictures: "Classify as negative, positive: ..."; labels are scored by likelihood."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from polytask.errors import TaskError
from polytask.registry import nearest
from polytask.tasks.metrics import METRICS, accuracy_each
from polytask.tasks.picture import Picture
from polytask.tasks.scoring import firsts, references, spoken
from polytask.tasks.segment import Image, Segment, Text
from polytask.tasks.task import Field


@dataclass(frozen=True)
class Classification:
    """Labels are those of the example, else the task's own `labels`; without any, the model writes what it likes."""

    labels: tuple[str, ...] = ()
    name: ClassVar[str] = "classification"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1")
    primary: ClassVar[str] = "accuracy"
    fields: ClassVar[Mapping[str, Field]] = {
        "text": Field(unless="image", help="what is to be classified"),
        "image": Field(Picture, required=False, help="the picture that is, alone or with a text"),
        "label": Field(required=False, help="its label", answer=True),
        "labels": Field(list[str], required=False, help="the labels there are"),
    }

    def __post_init__(self) -> None:
        if isinstance(self.labels, str) or not all(isinstance(label, str) for label in self.labels):
            raise TaskError(f"Task 'classification': labels are a list of strings, not {self.labels!r}.")
        object.__setattr__(self, "labels", tuple(self.labels))

    def segments(self, example: dict[str, Any]) -> list[Segment]:
        labels, label = self._labels(example), example.get("label")
        given = self._given(example, labels)
        if label is None:
            return given
        if labels and label not in labels:
            raise TaskError(f"Task 'classification': '{label}' is not one of the labels: {nearest(label, labels)}")
        return [*given, Text(label, target=True)]

    def _given(self, example: Mapping[str, Any], labels: tuple[str, ...]) -> list[Segment]:
        image = example.get("image")
        asked = "Classify" + (f" as {', '.join(labels)}" if labels else "")
        if image is None:
            return [Text(f"{asked}: {example['text']}")]
        return [Image(image), Text(f"{asked}: {example['text']}" if example.get("text") else f"{asked}.")]

    def choices(self, example: dict[str, Any]) -> list[list[Segment]] | None:
        return [[Text(label, target=True)] for label in self._labels(example)] or None

    def parse(self, produced: list[Segment]) -> str:
        """The label, spelt as the task's own labels are where case is all that differs."""
        return _spelt(spoken(produced), self.labels)

    def metrics(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> dict[str, Any]:
        predictions, golds = self._predictions(answers, examples), references(self.name, examples, "label")
        return {k: v for name in self.metric_names for k, v in METRICS.get(name)(predictions, golds).items()}

    def per_example(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> list[float]:
        golds = references(self.name, examples, "label")
        return [accuracy_each(*pair) for pair in zip(self._predictions(answers, examples), golds)]

    def _predictions(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> list[str]:
        given = firsts(self.name, answers, examples)
        return [_spelt(answer, self._labels(example)) for answer, example in zip(given, examples)]

    def _labels(self, example: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(example.get("labels") or self.labels))  # a label that is named twice is one


def _spelt(answer: str, labels: tuple[str, ...]) -> str:
    if answer in labels:
        return answer
    return next((label for label in labels if label.casefold() == answer.casefold()), answer)
