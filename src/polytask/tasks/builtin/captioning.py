"""Captioning: what a picture shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from polytask.tasks.judging import JUDGE, SCORES, judged, means
from polytask.tasks.metrics import exact_match_each, squad_f1_each
from polytask.tasks.picture import Picture
from polytask.tasks.scoring import firsts, references, spoken
from polytask.tasks.segment import Image, Segment, Text
from polytask.tasks.task import Field


@dataclass(frozen=True)
class Captioning:
    """Words are compared with the caption's own, and by rule too where the example names a judge."""

    name: ClassVar[str] = "captioning"
    metric_names: ClassVar[tuple[str, ...]] = ("squad_f1", "exact_match", *SCORES)
    primary: ClassVar[str] = "squad_f1"
    fields: ClassVar[Mapping[str, Field]] = {
        "image": Field(Picture, help="the picture"),
        "caption": Field(required=False, help="what it shows", answer=True),
        "judge": JUDGE,
    }

    def segments(self, example: dict[str, Any]) -> list[Segment]:
        given: list[Segment] = [Image(example["image"]), Text("What does the picture show?")]
        caption = example.get("caption")
        return given if caption is None else [*given, Text(caption, target=True)]

    def choices(self, example: dict[str, Any]) -> None:
        return None

    def parse(self, produced: list[Segment]) -> str:
        return spoken(produced)

    def metrics(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> dict[str, Any]:
        pairs = list(zip(firsts(self.name, answers, examples), references(self.name, examples, "caption")))
        measured = {"squad_f1": squad_f1_each, "exact_match": exact_match_each}
        scores = {name: sum(each(*pair) for pair in pairs) / max(1, len(pairs)) for name, each in measured.items()}
        return scores | means(judged(self.name, answers, examples, "caption"))

    def per_example(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> list[float]:
        golds = references(self.name, examples, "caption")
        return [squad_f1_each(*pair) for pair in zip(firsts(self.name, answers, examples), golds)]
