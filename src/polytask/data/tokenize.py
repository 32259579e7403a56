"""Rows become token arrays: one piece of the work of `prepare`, in this process or in a worker of its own.

Run as a program, it is a worker: rows come in on standard input as JSON and arrays go out on standard output. A worker
is a plain subprocess, not `multiprocessing`, so that a user's script needs no `if __name__ == "__main__"`, and nothing
is ever unpickled.
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from polytask import errors
from polytask.errors import DataError, Error
from polytask.tasks.segment import Image
from polytask.tasks.task import check
from polytask.tokenizers.dropout import Dropout
from polytask.tokenizers.encode import encode_documents, joined
from polytask.tokenizers.text import TextTokenizer

if TYPE_CHECKING:
    from polytask.tasks.segment import Segment
    from polytask.tasks.task import Task

Side = dict[str, Any]  # what StoreWriter.add takes, and `plain`


_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False, default=str)


def held_out(row: Mapping[str, Any], share: float) -> bool:
    """Does an example belong to the held-out ones? Its content alone decides, so duplicates stay together; where rows
    may stand together, the picture of the first one."""
    if share <= 0:
        return False
    digest = hashlib.blake2b(_JSON.encode(row).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def tokenize(
    rows: Sequence[Mapping[str, Any]], first: int, task: "Task", tokenizer: TextTokenizer, share: float,
    dropout: Dropout | None = None, together: int = 1,
) -> tuple[Side, Side, list[str]]:  # fmt: skip
    """The documents of `rows` (training, held out), and a sentence for each row that the task refuses.

    Rows are counted from `first`. dropout: each document of training is there as often as it says, cut in other ways.
    together: so many rows at most become one document, of which each begins with the picture that was there last.
    """
    sides = (_Documents([], [], []), _Documents([], [], []))
    refused = []
    open_, joining = sides[0], 0  # where the last row went, and how many more may join it
    for number, row in enumerate(rows, first):
        try:
            segments = task.segments(check(task, row))
            size = _size(segments)
        except Error as error:
            refused.append(f"row {number + 1}: {error}")
        else:
            if joining and _goes_on(open_.segments[-1], segments):
                open_.segments[-1] += segments[1:]
                open_.sizes[-1] = tuple(map(sum, zip(open_.sizes[-1], size)))
                joining -= 1
                continue
            decides = {"image": segments[0].data} if together > 1 and isinstance(segments[0], Image) else row
            open_, joining = sides[held_out(decides, share)], together - 1
            open_.segments.append(segments)
            open_.sizes.append(size)
            open_.numbers.append(number)
    return _side(sides[0], tokenizer, dropout), _side(sides[1], tokenizer), refused


def _goes_on(before: list["Segment"], segments: list["Segment"]) -> bool:
    """Does a row begin with the very picture that was shown or drawn last? Then it is not shown again."""
    last = next((one for one in reversed(before) if isinstance(one, Image)), None)
    first = segments[0]
    return last is not None and isinstance(first, Image) and not first.target and first.data == last.data


class _Documents(NamedTuple):
    segments: list[list["Segment"]]
    sizes: list[tuple[int, ...]]
    numbers: list[int]


def _size(segments: list["Segment"]) -> tuple[int, int, int]:
    """(bytes of the answers, characters, bytes). Raises DataError where there is no answer or no valid Unicode."""
    predicted = characters = total = 0
    answered = False
    for segment in segments:
        if isinstance(segment, Image):
            answered |= segment.target
            continue
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


def _side(documents: _Documents, tokenizer: TextTokenizer, dropout: Dropout | None = None) -> Side:
    sizes = np.array(documents.sizes, dtype=np.int64).reshape(-1, 3)
    if dropout is None:
        encoded = vars(encode_documents(documents.segments, tokenizer))
    else:
        sizes, encoded = np.tile(sizes, (dropout.times, 1)), _cut_anew(documents, tokenizer, dropout)
    _, characters, total = sizes.sum(axis=0).tolist()
    return encoded | {"predicted_bytes": sizes[:, 0], "characters": characters, "bytes": total}


def _cut_anew(documents: _Documents, tokenizer: TextTokenizer, dropout: Dropout) -> Side:
    """All rows once, then all of them again, ..., each by itself, so that its ids depend on no other."""
    cut = [
        encode_documents([segments], tokenizer, dropout.cut(tokenizer, turn, number))
        for turn in range(dropout.times)
        for segments, number in zip(documents.segments, documents.numbers, strict=True)
    ]
    return vars(joined(cut or [encode_documents([], tokenizer)]))


def send(pipe: IO[bytes], header: Mapping[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    """One message: the header's length, the header as JSON with the arrays' types and lengths, and their bytes."""
    about = [[array.dtype.str, len(array)] for array in arrays]
    text = json.dumps({"header": header, "arrays": about}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    pipe.write(len(text).to_bytes(8, "little") + text)
    for array in arrays:
        pipe.write(np.ascontiguousarray(array).data)
    pipe.flush()


def receive(pipe: IO[bytes]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What the other end sent. Raises EOFError where it ended."""
    message = json.loads(_exactly(pipe, int.from_bytes(_exactly(pipe, 8), "little")).decode("utf-8", "surrogatepass"))
    types = [(np.dtype(kind), length) for kind, length in message["arrays"]]
    return message["header"], [np.frombuffer(_exactly(pipe, t.itemsize * n), t) for t, n in types]


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


_ARRAYS = ("ids", "predicted", "lengths", "openers", "firsts", "predicted_bytes")


def send_answer(pipe: IO[bytes], answer: tuple[Side, Side, list[str]]) -> None:
    *sides, refused = answer
    scalars = [{name: value for name, value in side.items() if name not in _ARRAYS} for side in sides]
    send(pipe, {"sides": scalars, "refused": refused}, [side[name] for side in sides for name in _ARRAYS])


def receive_answer(pipe: IO[bytes]) -> tuple[Side, Side, list[str]]:
    """The answer of a worker, or the error it ran into, raised here."""
    header, arrays = receive(pipe)
    if "error" in header:
        raise getattr(errors, header["error"], RuntimeError)(header["sentence"])
    count = len(_ARRAYS)
    first, second = (
        scalars | dict(zip(_ARRAYS, arrays[i * count : (i + 1) * count])) for i, scalars in enumerate(header["sides"])
    )
    return first, second, header["refused"]


def work() -> None:
    """Serves until standard input ends."""
    from polytask.tasks import get_task

    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there are as many workers as cores
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    start, _ = receive(source)
    task, tokenizer = get_task(start["task"]), TextTokenizer.from_json(start["tokenizer"])
    dropout = Dropout(**start["dropout"]) if start["dropout"] else None
    while True:
        try:
            question, _ = receive(source)
        except (EOFError, KeyboardInterrupt):
            return
        try:
            rows, first = question["rows"], question["first"]
            answer = tokenize(rows, first, task, tokenizer, start["share"], dropout, start["together"])
        except Exception as error:
            send(sink, {"error": type(error).__name__, "sentence": str(error)})
        else:
            send_answer(sink, answer)


if __name__ == "__main__":
    work()
