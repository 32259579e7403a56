"""Learns a tokenizer from files of text."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from polytask.tokenizers.text import TextTokenizer

SAMPLE = 2_000  # texts that the compression is measured on


def train_tokenizer(files: Sequence[Path], size: int, out: Path) -> tuple[TextTokenizer, Path, float]:
    """(the tokenizer, the file it was saved to, bytes a token on the files' first texts).

    Raises DataError for a file that cannot be read, TokenizerError for a size that is too small.
    """
    tokenizer = TextTokenizer.train(_texts(files), size)
    path = out if out.suffix == ".json" else out / "tokenizer.json"
    tokenizer.save(path)
    sample = [text for text, _ in zip(_texts(files), range(SAMPLE))]
    tokens = sum(len(ids) for ids in tokenizer.encode_lists(sample))
    return tokenizer, path, sum(len(text.encode()) for text in sample) / max(1, tokens)


def _texts(files: Sequence[Path]) -> Iterator[str]:
    from polytask.data.sources import SourceSpec, read

    for file in files:
        lines = {"lines": True} if file.suffix == ".txt" else {}
        for row in read(SourceSpec(task="text", from_=str(file), options=lines)):
            yield row["text"]
