"""Summarization: "Summarize: ..."."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from polytask.tasks.languages import language
from polytask.tasks.metrics import rouge, rouge_each
from polytask.tasks.scoring import firsts, references, spoken
from polytask.tasks.segment import Segment, Text
from polytask.tasks.task import Field


@dataclass(frozen=True)
class Summarization:
    """`lang` is the language of the summaries: ROUGE cuts and stems English words in a way that others do not bear."""

    lang: str = "en"
    name: ClassVar[str] = "summarization"
    metric_names: ClassVar[tuple[str, ...]] = ("rouge1", "rouge2", "rougeL")
    primary: ClassVar[str] = "rougeL"
    fields: ClassVar[Mapping[str, Field]] = {
        "document": Field(help="the text to summarize"),
        "summary": Field(required=False, help="its summary", answer=True),
    }

    def __post_init__(self) -> None:
        language(self.lang)

    def segments(self, example: dict[str, Any]) -> list[Segment]:
        given = Text(f"Summarize: {example['document']}")
        if example.get("summary") is None:
            return [given]
        return [given, Text(example["summary"], target=True)]

    def choices(self, example: dict[str, Any]) -> None:
        return None

    def parse(self, produced: list[Segment]) -> str:
        return spoken(produced)

    def metrics(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> dict[str, Any]:
        golds = references(self.name, examples, "summary")
        return rouge(firsts(self.name, answers, examples), golds, language(self.lang).code)

    def per_example(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> list[float]:
        golds, code = references(self.name, examples, "summary"), language(self.lang).code
        pairs = zip(firsts(self.name, answers, examples), golds)
        return [rouge_each(prediction, gold, code)[self.primary] for prediction, gold in pairs]
