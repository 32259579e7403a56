"""Text that grows with every id."""

import codecs
from typing import Any

from tokenizers import decoders

from polytask.tokenizers.text import TextTokenizer


class TextStream:
    """Text that grows with every id: the pieces joined are what `decode` gives for all ids at once.

    within: the ids go on with a text, so that a space before the first word is one of its own.
    """

    def __init__(self, tokenizer: TextTokenizer, special: bool = False, within: bool = False):
        self._tokenizer, self._spelled = tokenizer, tokenizer._spelling
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._steps: Any = None
        if self._spelled is None:
            self._steps = decoders.DecodeStream(skip_special_tokens=not special)
        else:
            self._hidden = frozenset() if special else self._spelled.special
            self._opens = self._spelled.opens and not within

    def push(self, i: int) -> str:
        """The text that became complete with this id ("" where it waits for more bytes)."""
        i = int(i)
        self._tokenizer._check([i])
        if self._spelled is None:
            return self._steps.step(self._tokenizer._tokenizer, i) or ""
        return self._open("" if i in self._hidden else self._utf8.decode(self._spelled.pieces[i]))

    def _open(self, text: str) -> str:
        if not self._opens or not text:
            return text
        self._opens = False
        return text.removeprefix(" ")

    def flush(self) -> str:
        """What was held back; an incomplete character becomes the replacement character."""
        return self._utf8.decode(b"", final=True)
