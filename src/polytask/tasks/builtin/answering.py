"""Question answering, with or without a context to read, a picture to look at, and choices."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from polytask.tasks.metrics import accuracy_each, exact_match_each, squad_f1_each
from polytask.tasks.picture import Picture
from polytask.tasks.scoring import firsts, references, spoken
from polytask.tasks.segment import Image, Segment, Text
from polytask.tasks.task import Field


@dataclass(frozen=True)
class Answering:
    """The first of `answers` is the target and any of them is right; an empty list says that there is no answer.

    Columns as SQuAD and ARC have them, {"text": [...], ...}, serve as `answers` and `choices`.
    """

    name: ClassVar[str] = "answering"
    metric_names: ClassVar[tuple[str, ...]] = ("squad_f1", "exact_match")
    primary: ClassVar[str] = "squad_f1"
    fields: ClassVar[Mapping[str, Field]] = {
        "question": Field(help="what is asked"),
        "context": Field(required=False, help="a passage that holds the answer"),
        "image": Field(Picture, required=False, help="a picture that holds the answer"),
        "choices": Field(list[str], required=False, help="the possible answers, scored by likelihood"),
        "answers": Field(list[str], required=False, help="the right answers, the first to learn from", answer=True),
    }

    def segments(self, example: dict[str, Any]) -> list[Segment]:
        context = f"Context: {example['context']}\n" if example.get("context") else ""
        question = Text(f"{context}Question: {example['question']}")
        given: list[Segment] = [question] if example.get("image") is None else [Image(example["image"]), question]
        answers = example.get("answers")
        if answers is None:
            return given
        return [*given, Text(answers[0] if answers else "", target=True)]

    def choices(self, example: dict[str, Any]) -> list[list[Segment]] | None:
        if not example.get("choices"):
            return None
        return [[Text(choice, target=True)] for choice in example["choices"]]

    def parse(self, produced: list[Segment]) -> str:
        return spoken(produced)

    def metrics(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> dict[str, Any]:
        """F1 and exact match of SQuAD's own script; accuracy too where every example has choices."""
        pairs = list(zip(firsts(self.name, answers, examples), references(self.name, examples, "answers")))
        measured = {"squad_f1": squad_f1_each, "exact_match": exact_match_each}
        if examples and all(example.get("choices") for example in examples):
            measured["accuracy"] = accuracy_each
        return {name: sum(each(*pair) for pair in pairs) / max(1, len(pairs)) for name, each in measured.items()}

    def per_example(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> list[float]:
        golds = references(self.name, examples, "answers")
        return [squad_f1_each(*pair) for pair in zip(firsts(self.name, answers, examples), golds)]
