"""polytask data: a recipe's data, counted, and as the model sees it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from polytask.data.albums import Pictures
from polytask.data.prepare import Prepared
from polytask.data.sources import read
from polytask.errors import TaskError
from polytask.run.assembly import assemble, assemble_any, read_recipe
from polytask.run.train import Preparing
from polytask.tasks import Image, Segment, Text, check, get_task
from polytask.tasks.picture import decode
from polytask.tokenizers.text import TextTokenizer

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """Text of neighbouring tokens that the model learns to write, or is only given."""

    text: str
    learnt: bool


@dataclass(frozen=True)
class Document:
    source: str
    pieces: list[Piece]


@dataclass(frozen=True)
class Row:
    """A packed row of `length` positions, `tokens` of them filled."""

    length: int
    tokens: int
    learnt: int
    documents: list[Document]


def prepare_recipe(
    recipe: str, changes: Sequence[str] = (), *, data_dir: Path | None = None
) -> Prepared | Pictures:  # fmt: skip
    """Tokenizes what is not in the cache yet, or decodes and fits pictures."""
    loaded = read_recipe(recipe, changes, data_dir)
    with Preparing() as progress:
        return assemble_any(loaded, progress=progress).prepared


def packed_rows(
    recipe: str, changes: Sequence[str], count: int, step: int = 0, *, data_dir: Path | None = None
) -> Iterator[Row]:
    """The first `count` rows that training step `step` sees."""
    loaded = read_recipe(recipe, changes, data_dir)
    with Preparing() as progress:
        assembly = assemble(loaded, progress=progress)
    loader = assembly.loader()
    while count > 0:
        batch = loader.batch(step)
        for row in range(min(count, len(batch))):
            documents = _documents(
                batch.ids[row], batch.targets[row], batch.weights[row], batch.documents[row], assembly.tokenizer
            )
            if batch.encoder_ids is not None and batch.encoder_documents is not None:
                _put_before(documents, batch.encoder_ids[row], batch.encoder_documents[row], assembly.tokenizer)
            sources = dict(zip(batch.documents[row].tolist(), batch.sources[row].tolist()))
            yield Row(
                batch.ids.shape[1],
                int((batch.documents[row] > 0).sum()),
                int((batch.weights[row] > 0).sum()),
                [Document(assembly.prepared.names[sources[number]], pieces) for number, pieces in documents.items()],
            )
        count -= len(batch)
        step += 1


def examples_with_pictures(
    recipe: str, changes: Sequence[str], count: int, *, data_dir: Path | None = None
) -> list[Document]:
    """The first `count` examples of every source, segment by segment, where any source has pictures; else none."""
    found, pictured = [], False
    for source in read_recipe(recipe, changes, data_dir).sources():
        task = get_task(source.task) if isinstance(source.task, str) else source.task
        for row in islice(read(replace(source, clean=None), answered=False), count):
            try:
                segments = task.segments(check(task, row))
            except TaskError:  # training passes over it too
                continue
            pictured |= any(isinstance(segment, Image) for segment in segments)
            found.append(Document(source.name, _told(segments)))
    return found if pictured else []


def _told(segments: Sequence[Segment]) -> list[Piece]:
    pieces: list[Piece] = []
    for segment in segments:
        text = segment.text if isinstance(segment, Text) else _size(segment.data)
        pieces += [Piece(" ", False), Piece(text, segment.target)] if pieces else [Piece(text, segment.target)]
    return pieces


def _size(picture: bytes) -> str:
    width, height = decode(picture).size
    return f"[picture, {width} x {height} pixels, {len(picture):,} bytes]"


def _documents(
    ids: "Tensor", targets: "Tensor", weights: "Tensor", documents: "Tensor", tokenizer: TextTokenizer
) -> dict[int, list[Piece]]:
    """By document number: the first id, which nothing predicts, then every target with whether it is learnt."""
    found: dict[int, list[Piece]] = {}
    for number in sorted(set(documents[documents > 0].tolist())):
        places = (documents == number).nonzero().squeeze(1)
        tokens = [int(ids[places[0]]), *targets[places].tolist()]
        learnt = [False, *(weights[places] > 0).tolist()]
        found[number] = _pieces(tokens, learnt, tokenizer)
    return found


def _pieces(tokens: list[int], learnt: list[bool], tokenizer: TextTokenizer) -> list[Piece]:
    pieces, start = [], 0
    for end in range(1, len(tokens) + 1):
        if end == len(tokens) or learnt[end] != learnt[start]:
            pieces.append(Piece(tokenizer.decode(tokens[start:end], special=True), learnt[start]))
            start = end
    return pieces


def _put_before(documents: dict[int, list[Piece]], ids: "Tensor", numbers: "Tensor", tokenizer: TextTokenizer) -> None:
    """What the encoder reads stands before what the decoder writes."""
    for number, pieces in documents.items():
        read = ids[numbers == number].tolist()
        pieces.insert(0, Piece(tokenizer.decode(read, special=True) + " => ", False))
