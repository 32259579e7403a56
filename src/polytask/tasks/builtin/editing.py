"""Editing: a picture changed as an instruction says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from polytask.tasks.judging import JUDGE, SCORES, judged, means, rights
from polytask.tasks.picture import Picture
from polytask.tasks.scoring import drawn
from polytask.tasks.segment import Image, Segment, Text
from polytask.tasks.task import Field


@dataclass(frozen=True)
class Editing:
    """Judged where the example names a judge, by what the picture shows afterwards."""

    name: ClassVar[str] = "editing"
    metric_names: ClassVar[tuple[str, ...]] = SCORES
    primary: ClassVar[str] = "right"
    fields: ClassVar[Mapping[str, Field]] = {
        "image": Field(Picture, help="the picture"),
        "instruction": Field(help="what is to be changed in it"),
        "edited": Field(Picture, required=False, help="the picture afterwards", answer=True),
        "judge": JUDGE,
    }

    def segments(self, example: dict[str, Any]) -> list[Segment]:
        given: list[Segment] = [Image(example["image"]), Text(f"Edit: {example['instruction']}")]
        edited = example.get("edited")
        return given if edited is None else [*given, Image(edited, target=True)]

    def choices(self, example: dict[str, Any]) -> None:
        return None

    def parse(self, produced: list[Segment]) -> Any:
        """The picture, a PIL image in RGB."""
        return drawn(produced)

    def metrics(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> dict[str, Any]:
        return means(judged(self.name, answers, examples, "edited"))

    def per_example(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> list[float] | None:
        return rights(judged(self.name, answers, examples, "edited"), examples)
