"""Translation: "Translate to German: A dog runs."."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from polytask.errors import TaskError
from polytask.tasks.languages import language
from polytask.tasks.metrics import bleu, chrf
from polytask.tasks.scoring import firsts, references, spoken
from polytask.tasks.segment import Segment, Text
from polytask.tasks.task import Field


@dataclass(frozen=True)
class Translation:
    """The prompt names the language to write; the one that is read shows itself, so training and asking look alike.

    `source_lang` and `target_lang` stand in for the fields of those names where an example lacks them.
    """

    source_lang: str | None = None
    target_lang: str | None = None
    name: ClassVar[str] = "translation"
    metric_names: ClassVar[tuple[str, ...]] = ("bleu", "chrf")
    primary: ClassVar[str] = "bleu"

    def __post_init__(self) -> None:
        for lang in (self.source_lang, self.target_lang):
            if lang is not None:
                language(lang)

    @cached_property
    def fields(self) -> Mapping[str, Field]:
        return {
            "source": Field(help="the text to translate"),
            "target": Field(required=False, help="its translation", answer=True),
            "source_lang": Field(required=False, help="the language of the source, by name or code"),
            "target_lang": Field(required=self.target_lang is None, help="the language to write, by name or code"),
        }

    def segments(self, example: dict[str, Any]) -> list[Segment]:
        self._source(example)
        given = Text(f"Translate to {self._target(example).name}: {example['source']}")
        if example.get("target") is None:
            return [given]
        return [given, Text(example["target"], target=True)]

    def choices(self, example: dict[str, Any]) -> None:
        return None

    def parse(self, produced: list[Segment]) -> str:
        return spoken(produced)

    def metrics(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> dict[str, Any]:
        """BLEU and chrF of the corpus; over several languages their means, and each direction's own ("bleu_en-de")."""
        predictions, golds = firsts(self.name, answers, examples), references(self.name, examples, "target")
        directions: dict[tuple[str, str], list[int]] = {}
        for index, example in enumerate(examples):
            directions.setdefault((self._source(example), self._target(example).code), []).append(index)
        scores: dict[str, dict[str, Any]] = {}
        for (source, target), rows in directions.items():
            chosen, right = [predictions[i] for i in rows], [golds[i] for i in rows]
            scores[f"{source}-{target}" if source else target] = bleu(chosen, right, target) | chrf(chosen, right)
        if len(scores) == 1:
            return next(iter(scores.values()))
        means = {name: sum(s[name] for s in scores.values()) / max(1, len(scores)) for name in self.metric_names}
        return means | {f"{name}_{direction}": value for direction, s in scores.items() for name, value in s.items()}

    def per_example(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> None:
        return None  # BLEU counts over the corpus

    def _source(self, example: Mapping[str, Any]) -> str:
        lang = example.get("source_lang") or self.source_lang
        return language(lang).code if lang else ""

    def _target(self, example: Mapping[str, Any]) -> Any:
        lang = example.get("target_lang") or self.target_lang
        if not lang:
            raise TaskError(
                "Task 'translation': field 'target_lang' is missing; name a language, e.g. target_lang=German."
            )
        return language(lang)
