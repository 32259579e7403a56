"""Drawing: a picture from its caption."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from polytask.tasks.judging import JUDGE, SCORES, judged, means, rights
from polytask.tasks.picture import Picture
from polytask.tasks.scoring import drawn
from polytask.tasks.segment import Image, Segment, Text
from polytask.tasks.task import Field


@dataclass(frozen=True)
class Drawing:
    """Judged where the example names a judge; how pictures of any source compare is `evaluation.pictures`' to say."""

    name: ClassVar[str] = "drawing"
    metric_names: ClassVar[tuple[str, ...]] = SCORES
    primary: ClassVar[str] = "right"
    fields: ClassVar[Mapping[str, Field]] = {
        "caption": Field(help="what the picture is to show"),
        "image": Field(Picture, required=False, help="a picture that shows it", answer=True),
        "label": Field(required=False, help="the picture's class, for networks that draw by class", answer=True),
        "judge": JUDGE,
    }

    def segments(self, example: dict[str, Any]) -> list[Segment]:
        given = Text(f"Draw: {example['caption']}")
        image = example.get("image")
        return [given] if image is None else [given, Image(image, target=True)]

    def choices(self, example: dict[str, Any]) -> None:
        return None

    def parse(self, produced: list[Segment]) -> Any:
        """The picture, a PIL image in RGB."""
        return drawn(produced)

    def metrics(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> dict[str, Any]:
        return means(judged(self.name, answers, examples, "caption"))

    def per_example(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> list[float] | None:
        return rights(judged(self.name, answers, examples, "caption"), examples)
