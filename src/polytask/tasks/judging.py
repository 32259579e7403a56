"""Judges: who says by rule what is right in a drawn picture, or in what is said of one, where a world knows it.

An example names its judge in the field `judge`; a user may `JUDGES.add` another. A judge takes an answer and what is
wanted, each a PIL image or a text, and gives scores from 0 to 1; "right" is the one that counts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from polytask.errors import TaskError
from polytask.registry import Registry
from polytask.tasks.picture import decode
from polytask.tasks.scoring import firsts
from polytask.tasks.task import Field

JUDGES = Registry("judge", {"blocksworld": "polytask.blocksworld.drawn:compare"}, TaskError)
JUDGE = Field(required=False, help="who judges the answer by rule: blocksworld", answer=True)
SCORES = ("right", "objects", "colour", "shape", "size", "place")  # of the blocks world


def judged(
    task: str, answers: Sequence[Sequence[Any]], examples: Sequence[Mapping[str, Any]], wanted: str
) -> list[dict[str, float]]:
    """The scores of each answer whose example has a judge; `wanted` is the field with what it is compared with."""
    found = []
    for answer, example in zip(firsts(task, answers, examples), examples):
        if not example.get("judge"):
            continue
        gold = example.get(wanted)
        if gold is None:
            raise TaskError(f"Task '{task}': an example with a judge has no '{wanted}' to compare the answer with.")
        found.append(JUDGES.get(example["judge"])(answer, decode(gold) if isinstance(gold, bytes) else gold))
    return found


def means(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each score, by its name; nothing where nothing was judged."""
    return {name: sum(score[name] for score in scores) / len(scores) for name in (scores[0] if scores else ())}


def rights(scores: Sequence[Mapping[str, float]], examples: Sequence[Any]) -> list[float] | None:
    """Whether each answer is right, where all were judged."""
    return [score["right"] for score in scores] if scores and len(scores) == len(examples) else None
