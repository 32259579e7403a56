"""Plain text: a document to learn from or to continue."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from polytask.tasks.scoring import written
from polytask.tasks.segment import Segment, Text
from polytask.tasks.task import Field


@dataclass(frozen=True)
class TextTask:
    """The whole document is the target. Perplexity is evaluation's to measure; there is no metric of answers."""

    name: ClassVar[str] = "text"
    metric_names: ClassVar[tuple[str, ...]] = ()
    primary: ClassVar[str] = ""
    fields: ClassVar[Mapping[str, Field]] = {"text": Field(help="a document, or its beginning to be continued")}

    def segments(self, example: dict[str, Any]) -> list[Segment]:
        return [Text(example["text"], target=True)]

    def choices(self, example: dict[str, Any]) -> None:
        return None

    def parse(self, produced: list[Segment]) -> str:
        """The continuation as it stands: spaces at its ends belong to it."""
        return written(produced)

    def metrics(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> dict[str, Any]:
        return {}

    def per_example(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> None:
        return None
