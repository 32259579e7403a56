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
from typing import TYPE_CHECKING, Any

import numpy as np

from polytask.errors import DataError, Error
from polytask.tasks.task import check
from polytask.tokenizers.encode import encode_documents
from polytask.tokenizers.text import TextTokenizer

if TYPE_CHECKING:
    from polytask.tasks.task import Task

Side = dict[str, Any]  # what StoreWriter.add takes, and `plain`


def held_out(row: Mapping[str, Any], share: float) -> bool:
    """Does an example belong to the held-out ones? Its content alone decides, so duplicates stay together."""
    if share <= 0:
        return False
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def tokenize(
    rows: Sequence[Mapping[str, Any]], first: int, task: "Task", tokenizer: TextTokenizer, share: float
) -> tuple[Side, Side, list[str]]:
    """The documents of `rows` (training, held out), and a sentence for each row that the task refuses.

    Rows are counted from `first`.
    """
    sides: tuple[list, list] = ([], [])
    refused = []
    for number, row in enumerate(rows, first):
        try:
            segments = task.segments(check(task, row))
            _encodable(segments)
        except Error as error:
            refused.append(f"row {number + 1}: {error}")
        else:
            sides[held_out(row, share)].append(segments)
    return _side(sides[0], tokenizer), _side(sides[1], tokenizer), refused


def _encodable(segments: list) -> None:
    if not any(segment.target for segment in segments):
        raise DataError("it has no answer to learn from.")
    try:
        for segment in segments:
            segment.text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"its text is not valid Unicode (a lone surrogate at character {error.start}).") from error


def _side(documents: list, tokenizer: TextTokenizer) -> Side:
    encoded = encode_documents(documents, tokenizer)
    characters = total = 0
    predicted = np.zeros(len(documents), dtype=np.int64)
    for index, segments in enumerate(documents):
        for segment in segments:
            size = len(segment.text.encode())
            characters += len(segment.text)
            total += size
            if segment.target:
                predicted[index] += size
    return vars(encoded) | {"predicted_bytes": predicted, "characters": characters, "bytes": total}


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
