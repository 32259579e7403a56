"""Rows become token arrays: one piece of the work of `prepare`, in this process or in a worker of its own.

Run as a program, it is a worker: tasks come in on standard input and arrays go out on standard output, both pickled by
the process that started it. A worker is a plain subprocess, not `multiprocessing`, so that a user's script needs no
`if __name__ == "__main__"`.
"""

import hashlib
import json
import os
import pickle
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from polytask.errors import DataError, Error
from polytask.tasks.task import check
from polytask.tokenizers.encode import encode_documents
from polytask.tokenizers.text import TextTokenizer

if TYPE_CHECKING:
    from polytask.tasks.task import Task

Side = dict[str, Any]  # what StoreWriter.add takes, and `plain`


_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False, default=str)


def held_out(row: Mapping[str, Any], share: float) -> bool:
    """Does an example belong to the held-out ones? Its content alone decides, so duplicates stay together."""
    if share <= 0:
        return False
    digest = hashlib.blake2b(_JSON.encode(row).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def tokenize(
    rows: Sequence[Mapping[str, Any]], first: int, task: "Task", tokenizer: TextTokenizer, share: float
) -> tuple[Side, Side, list[str]]:
    """The documents of `rows` (training, held out), and a sentence for each row that the task refuses.

    Rows are counted from `first`.
    """
    sides = (_Documents([], []), _Documents([], []))
    refused = []
    for number, row in enumerate(rows, first):
        try:
            segments = task.segments(check(task, row))
            size = _size(segments)
        except Error as error:
            refused.append(f"row {number + 1}: {error}")
        else:
            side = sides[held_out(row, share)]
            side.segments.append(segments)
            side.sizes.append(size)
    return _side(sides[0], tokenizer), _side(sides[1], tokenizer), refused


class _Documents(NamedTuple):
    segments: list
    sizes: list[tuple[int, int, int]]


def _size(segments: list) -> tuple[int, int, int]:
    """(bytes of the answers, characters, bytes). Raises DataError where there is no answer or no valid Unicode."""
    predicted = characters = total = 0
    answered = False
    for segment in segments:
        try:
            size = len(segment.text.encode())
        except UnicodeEncodeError as error:
            raise DataError(f"its text is not valid Unicode (a lone surrogate at character {error.start}).") from error
        characters += len(segment.text)
        total += size
        if segment.target:
            predicted += size
            answered = True
    if not answered:
        raise DataError("it has no answer to learn from.")
    return predicted, characters, total


def _side(documents: _Documents, tokenizer: TextTokenizer) -> Side:
    sizes = np.array(documents.sizes, dtype=np.int64).reshape(-1, 3)
    _, characters, total = sizes.sum(axis=0).tolist()
    encoded = encode_documents(documents.segments, tokenizer)
    return vars(encoded) | {"predicted_bytes": sizes[:, 0], "characters": characters, "bytes": total}


def work() -> None:
    """Serves until standard input ends."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there are as many workers as cores
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    task, tokenizer, share = pickle.load(source)
    tokenizer = TextTokenizer.from_json(tokenizer)
    while True:
        try:
            rows, first = pickle.load(source)
        except (EOFError, KeyboardInterrupt):
            return
        try:
            answer: Any = tokenize(rows, first, task, tokenizer, share)
        except Exception as error:
            answer = error
        pickle.dump(answer, sink, protocol=pickle.HIGHEST_PROTOCOL)
        sink.flush()


if __name__ == "__main__":
    work()
