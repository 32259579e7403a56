"""Infilling: "A [1] runs up the [2]." asks for "[1] dog [2] hill".

Text without masks gets some, the same every time: spans of words are chosen by a hash of the text, in proportions of
T5's span corruption (Raffel et al. 2020, section 3.1.4): 15% of the words, 3 words a span on average.
"""

import hashlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, islice, pairwise
from typing import Any, ClassVar

from polytask.errors import TaskError
from polytask.tasks.metrics import token_f1_each
from polytask.tasks.scoring import firsts, written
from polytask.tasks.segment import Segment, Text
from polytask.tasks.task import Field

MARK = re.compile(r"\[[0-9]+\]")
WORD = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff]|[^\s\u2e80-\u9fff\uf900-\ufaff]+")  # a Han or Kana sign is a word


@dataclass(frozen=True)
class Infilling:
    """The answer maps marks to what stands there, {"[1]": "dog", "[2]": "hill"}; `fill` puts it in its place."""

    rate: float = 0.15
    mean_span: float = 3.0
    name: ClassVar[str] = "infilling"
    metric_names: ClassVar[tuple[str, ...]] = ("exact_match", "token_f1")
    primary: ClassVar[str] = "token_f1"
    fields: ClassVar[Mapping[str, Field]] = {
        "text": Field(required=False, help="a whole text, to be masked here"),
        "masked": Field(required=False, help="a text with [1], [2], ... where something is to be filled in"),
        "answers": Field(list[str], required=False, help="what belongs there, by the order of the marks", answer=True),
    }

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1 or self.mean_span < 1:
            raise TaskError("Task 'infilling': rate is a share above 0 and up to 1, mean_span one word or more.")

    def segments(self, example: dict[str, Any]) -> list[Segment]:
        masked, answers = self._masked(example)
        given = Text(f"Fill in: {masked}")
        if answers is None:
            return [given]
        return [given, Text(" ".join(f"{mark} {answer}" for mark, answer in answers.items()), target=True)]

    def choices(self, example: dict[str, Any]) -> None:
        return None

    def parse(self, produced: list[Segment]) -> dict[str, str]:
        """Mark -> what follows it; words before the first mark belong nowhere and are dropped."""
        text = written(produced)
        marks = list(MARK.finditer(text))
        ends = [mark.start() for mark in marks[1:]] + [len(text)]
        return {mark.group(): text[mark.end() : end].strip() for mark, end in zip(marks, ends)}

    def metrics(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> dict[str, Any]:
        """`exact_match`: every span is right to the letter. `token_f1`: mean over an example's spans, then examples."""
        pairs = self._pairs(answers, examples)
        exact = [all(answer.get(mark) == gold for mark, gold in golds.items()) for answer, golds in pairs]
        overlap = self.per_example(answers, examples)
        return {"exact_match": sum(exact) / max(1, len(pairs)), "token_f1": sum(overlap) / max(1, len(pairs))}

    def per_example(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> list[float]:
        return [
            sum(token_f1_each(answer.get(mark, ""), [gold]) for mark, gold in golds.items()) / max(1, len(golds))
            for answer, golds in self._pairs(answers, examples)
        ]

    def _pairs(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> list[tuple[dict, dict]]:
        pairs = []
        for number, (answer, example) in enumerate(zip(firsts(self.name, answers, examples), examples)):
            golds = self._masked(example)[1]
            if golds is None:
                raise TaskError(f"Task 'infilling': example {number + 1} has no 'answers' to compare with.")
            pairs.append((answer, golds))
        return pairs

    def _masked(self, example: Mapping[str, Any]) -> tuple[str, dict[str, str] | None]:
        masked, answers = example.get("masked"), example.get("answers")
        if masked is None and example.get("text") is None:
            raise TaskError("Task 'infilling': an example needs 'text', or 'masked' with 'answers'.")
        if masked is None:
            return mask(example["text"], rate=self.rate, mean_span=self.mean_span)
        if answers is None:
            return masked, None
        given = {f"[{number}]": answer for number, answer in enumerate(answers, start=1)}
        lacking = [given_mark for given_mark in given if given_mark not in masked]
        if lacking or not given:
            raise TaskError(f"Task 'infilling': 'masked' must hold [1] to [{len(given)}], one for each of the answers.")
        return masked, given


def mask(text: str, *, rate: float = 0.15, mean_span: float = 3.0) -> tuple[str, dict[str, str]]:
    """The text with marks for some spans of words, and the words behind each mark, always the same for the same text.

    Marks skip the numbers that the text holds in brackets itself, and such words are never masked, so that
    `fill(*mask(text)) == text`. Raises TaskError for a text without words.
    """
    words = [(word.start(), word.end()) for word in WORD.finditer(text)]
    taken = [(span.start(), span.end()) for span in MARK.finditer(text)]
    free = [i for i, (start, end) in enumerate(words) if not any(a < end and start < b for a, b in taken)]
    if not free:
        raise TaskError(f"Task 'infilling': there is no word to mask in {text[:40]!r}.")
    noise = {free[i] for i in _noise(len(free), rate, mean_span, _generator(text))}
    used = {text[start:end] for start, end in taken}
    marks = (f"[{number}]" for number in count(1) if f"[{number}]" not in used)
    pieces, answers, position = [], {}, 0
    for first, last in _runs(sorted(noise)):
        mark = next(islice(marks, 1))
        start, end = words[first][0], words[last][1]
        pieces += [text[position:start], mark]
        answers[mark] = text[start:end]
        position = end
    return "".join([*pieces, text[position:]]), answers


def fill(masked: str, answers: Mapping[str, str]) -> str:
    """The text with each mark that has an answer replaced by it."""
    return MARK.sub(lambda mark: answers.get(mark.group(), mark.group()), masked)


def _generator(text: str) -> random.Random:
    return random.Random(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())


def _noise(words: int, rate: float, mean_span: float, generator: random.Random) -> list[int]:
    """Positions of the masked words: kept and masked stretches of random lengths take turns."""
    masked = min(max(round(words * rate), 1), max(words - 1, 1))
    kept = words - masked
    spans = max(1, min(round(masked / mean_span), masked, kept + 1))
    before = _parts(kept + 2, spans + 1, generator)  # T5 always ends masked; here both ends may be kept or masked
    chosen, position = [], -1
    for given, hidden in zip(before, _parts(masked, spans, generator)):
        position += given
        chosen += range(position, position + hidden)
        position += hidden
    return chosen


def _parts(total: int, parts: int, generator: random.Random) -> list[int]:
    """`total` as a sum of `parts` positive numbers, all such sums alike likely."""
    cuts = [0, *sorted(generator.sample(range(1, total), parts - 1)), total]
    return [b - a for a, b in pairwise(cuts)]


def _runs(positions: list[int]) -> list[tuple[int, int]]:
    """First and last of each stretch of neighbours."""
    runs: list[tuple[int, int]] = []
    for position in positions:
        if runs and runs[-1][1] == position - 1:
            runs[-1] = (runs[-1][0], position)
        else:
            runs.append((position, position))
    return runs
