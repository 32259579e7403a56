"""polytask tokenizer train: learns a vocabulary from text files."""

from pathlib import Path
from typing import Annotated

import typer

from polytask.cli.command import Verb, console

app = typer.Typer(help="Learn a tokenizer from text.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Learn a tokenizer from text."""


@app.command(cls=Verb)
def train(
    files: Annotated[list[Path], typer.Argument(help="Text files: .txt, or .jsonl with a column `text`.")],
    size: Annotated[int, typer.Option(help="How many tokens, special ones included.")] = 8192,
    out: Annotated[Path, typer.Option(help="The file, or a folder for tokenizer.json.")] = Path("tokenizer.json"),
) -> None:
    """Learn a byte-level BPE tokenizer."""
    from polytask.run.tokenizer import train_tokenizer

    made, path, compression = train_tokenizer(files, size, out)
    console().print(f"{path}: {made.vocab_size:,} tokens, {compression:.2f} bytes a token on these files")
