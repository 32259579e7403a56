"""What is said of texts that no tokenizer can encode."""

from collections.abc import Sequence
from typing import Any

from polytask.errors import TokenizerError

BROKEN = (TypeError, UnicodeEncodeError)  # what the `tokenizers` library raises for them


def broken(texts: Sequence[Any]) -> TokenizerError:
    """The error that says which of these texts is none, and where."""
    return TokenizerError(f"{_reason(texts)} Replace such characters in the data.")


def _reason(texts: Sequence[Any]) -> str:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            return f"Text {index} of {len(texts)} is a {type(text).__name__}, not a text."
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            return f"Text {index} of {len(texts)} is not valid Unicode at character {error.start} (a lone surrogate)."
    return "A text could not be encoded."
