"""Text becomes ids and ids become text; `encode` is the one place where segments become ids and loss weights."""

from polytask.tokenizers.encode import (
    Documents,
    Encoded,
    continuation_ids,
    encode,
    encode_documents,
    encode_many,
    prompt_ids,
    split_prompt,
    split_source,
)
from polytask.tokenizers.stream import TextStream
from polytask.tokenizers.text import SPECIAL, TextTokenizer

__all__ = [
    "SPECIAL",
    "Documents",
    "Encoded",
    "TextStream",
    "TextTokenizer",
    "continuation_ids",
    "encode",
    "encode_documents",
    "encode_many",
    "prompt_ids",
    "split_prompt",
    "split_source",
]
