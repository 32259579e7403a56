"""Log-probabilities of tokens as the OpenAI API writes them down."""

import codecs
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from polytask.tokenizers.text import TextTokenizer

LEAST = -9999.0  # stands for minus infinity, which JSON does not have


Token = tuple[int, Mapping[int, float]]  # an id, and the log-probabilities in its place, its own among them
Place = Mapping[int, float] | None
Placed = tuple[int, Place, int]  # the same with the place's offset in the text


def chat_logprobs(tokenizer: TextTokenizer, tokens: Iterable[Token], top: int) -> dict[str, Any]:
    """For each token itself, its bytes and those of the `top` likeliest ids in its place that texts have."""
    content = []
    for i, place in tokens:
        best = [_token(tokenizer, other, place[other]) for other in _likeliest(tokenizer, place, top)]
        content.append({**_token(tokenizer, i, place[i]), "top_logprobs": best})
    return {"content": content, "refusal": None}


class Offsets:
    """Where the tokens of a text begin in it, as they come, in characters; those that share a character begin at it.

    begin: where the text itself does. special: whether the names of special ids stand in it. within: it goes on with
    another one.
    """

    def __init__(self, tokenizer: TextTokenizer, begin: int = 0, special: bool = False, within: bool = False):
        self._next, self._stream = begin, tokenizer.stream(special, within)
        self._spelled = None if tokenizer.piece(0) is None else tokenizer.spelling
        self._hidden = frozenset() if self._spelled is None or special else self._spelled.special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def of(self, tokens: Iterable[tuple[int, Place]]) -> list[Placed]:
        return [(i, place, self._push(i)) for i, place in tokens]

    def _push(self, i: int) -> int:
        piece = b"" if self._spelled is None or i in self._hidden else self._spelled.pieces[i]
        held, _ = self._utf8.getstate()  # the beginning of a character, which what comes may break off
        start = self._next + max(len((held + piece[:1]).decode(errors="replace")) - 1, 0)
        self._utf8.decode(piece)
        self._next += len(self._stream.push(i))
        return start


def text_logprobs(tokenizer: TextTokenizer, tokens: Sequence[Placed], top: int) -> dict[str, Any]:
    """Lists with an entry for each token; nothing is known of the first one of a prompt."""
    return {
        "tokens": [_text(tokenizer, i) for i, _, _ in tokens],
        "token_logprobs": [place and _finite(place[i]) for i, place, _ in tokens],
        "top_logprobs": [place and _best(tokenizer, place, top) for _, place, _ in tokens] if top else None,
        "text_offset": [offset for _, _, offset in tokens],
    }


def _best(tokenizer: TextTokenizer, place: Mapping[int, float], top: int) -> dict[str, float]:
    """The likeliest by their texts; of ids with the same one (parts of characters) the likeliest stands."""
    found = dict[str, float]()
    for i in _likeliest(tokenizer, place, top):
        found.setdefault(_text(tokenizer, i), _finite(place[i]))
    return found


def _token(tokenizer: TextTokenizer, i: int, logprob: float) -> dict[str, Any]:
    return {"token": _text(tokenizer, i), "logprob": _finite(logprob), "bytes": tokenizer.piece(i)}


def _text(tokenizer: TextTokenizer, i: int) -> str:
    """A token as it stands inside a text, with the space before it."""
    piece = tokenizer.piece(i)
    return tokenizer.decode([i], special=True) if piece is None else bytes(piece).decode(errors="replace")


def _likeliest(tokenizer: TextTokenizer, place: Mapping[int, float], count: int) -> list[int]:
    """A network may have more rows than its tokenizer has ids: codes of pictures, or padding."""
    known = (i for i in place if i < tokenizer.vocab_size)
    return sorted(known, key=place.__getitem__, reverse=True)[:count]


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)
