"""Stores and prepared sources made directly from documents, without files."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from polytask.data.prepare import Prepared, PreparedSource
from polytask.data.store import Store, StoreWriter
from polytask.tasks.segment import Text
from polytask.tokenizers import Encoded, TextTokenizer, encode_documents, encode_many

BYTES = TextTokenizer.bytes()


def store(folder: Path, documents: list[list[Text]]) -> Store:
    writer = StoreWriter(folder, BYTES.vocab_size)
    half = len(documents) // 2  # two calls, so that joining them is tested as well
    for part in (documents[:half], documents[half:]):
        fields = vars(encode_documents(part, BYTES))
        fields.pop("plain")
        lengths = [sum(len(s.text.encode()) for s in document if s.target) for document in part]
        writer.add(**fields, predicted_bytes=np.array(lengths, dtype=np.int64), characters=0, bytes=0)
    writer.close()
    return Store(folder)


def prepared(folder: Path, sources: dict[str, list[list[Text]]], held: dict[str, list[list[Text]]] | None = None):
    made = []
    for name, documents in sources.items():
        flat = all(len(document) == 1 for document in documents)
        train = store(folder / name / "train", documents)
        validation = store(folder / name / "validation", (held or {}).get(name, []))
        made.append(PreparedSource(name, "any", flat, None, train, validation))
    return Prepared(tuple(made), BYTES.special, BYTES.vocab_size)


def encoded(documents: list[list[Text]]) -> list[Encoded]:
    return encode_many(documents, BYTES)


def pairs(rng: np.random.Generator, count: int, longest: int = 40) -> list[list[Text]]:
    """Questions and answers of random letters and lengths."""
    return [[Text(letters(rng, longest)), Text(letters(rng, longest), target=True)] for _ in range(count)]


def texts(rng: np.random.Generator, count: int, longest: int = 200) -> list[list[Text]]:
    return [[Text(letters(rng, longest), target=True)] for _ in range(count)]


def letters(rng: np.random.Generator, longest: int) -> str:
    return bytes(rng.integers(97, 123, int(rng.integers(1, longest + 1))).tolist()).decode()


WORDS = st.text(st.sampled_from("abcdefgh"), max_size=25)
PAIRS = st.lists(st.tuples(WORDS, WORDS).map(lambda p: [Text(p[0]), Text(p[1], target=True)]), min_size=1, max_size=25)
TEXTS = st.lists(WORDS.map(lambda text: [Text(text, target=True)]), min_size=1, max_size=25)
