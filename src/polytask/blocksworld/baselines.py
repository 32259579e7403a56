"""What answers without understanding reach: the floor above which a model's accuracy begins to mean something."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polytask.blocksworld.judge import given, judge, wanted
from polytask.errors import DataError

WORD = re.compile(r"\w+|[^\w\s]")


def baselines(
    task: str, test_rows: Sequence[Mapping[str, Any]], train_rows: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """The share of test rows that each of these gets right, by `judge`.

    `majority` always gives the most frequent answer of the training rows, `copy` what it was shown, `nearest` the
    answer of the training row that shares most words with what it was shown (Jaccard index of the sets of words).
    """
    if not test_rows or not train_rows:
        raise DataError("Blocks world: baselines need test rows and training rows, one of each or more.")
    answers = [wanted(task, row) for row in train_rows]
    shown = [given(task, row) for row in test_rows]
    majority = Counter(answers).most_common(1)[0][0]
    near = [answers[i] for i in nearest_rows(shown, [given(task, row) for row in train_rows])]
    share = {"majority": [majority] * len(shown), "copy": shown, "nearest": near}
    return {
        name: sum(judge(task, answer, row) for answer, row in zip(found, test_rows)) / len(test_rows)
        for name, found in share.items()
    }


def nearest_rows(texts: Sequence[str], others: Sequence[str]) -> list[int]:
    """For each text the number of the other text with the highest Jaccard index of their words, the first of equals."""
    words = {word: i for i, word in enumerate(sorted({word for text in others for word in WORD.findall(text)}))}
    table = np.zeros((len(others), len(words)), dtype=np.float32)
    for row, text in enumerate(others):
        table[row, [words[word] for word in WORD.findall(text)]] = 1
    sizes = table.sum(1)
    found = []
    for text in texts:
        own = set(WORD.findall(text))
        known = np.zeros(len(words), dtype=np.float32)
        known[[words[word] for word in own if word in words]] = 1
        shared = table @ known
        found.append(int(np.argmax(shared / (sizes + len(own) - shared))))
    return found
