"""Log-probabilities of tokens as the OpenAI API writes them down."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from polytask.tokenizers.text import TextTokenizer

LEAST = -9999.0  # stands for minus infinity, which JSON does not have


Token = tuple[int, Mapping[int, float]]  # an id, and the log-probabilities in its place, its own among them


def chat_logprobs(tokenizer: TextTokenizer, tokens: Iterable[Token], top: int) -> dict[str, Any]:
    """For each token itself, its bytes and those of the `top` likeliest ids in its place that texts have."""
    content = []
    for i, place in tokens:
        best = [_token(tokenizer, other, place[other]) for other in _likeliest(tokenizer, place, top)]
        content.append({**_token(tokenizer, i, place[i]), "top_logprobs": best})
    return {"content": content, "refusal": None}


def text_logprobs(
    tokenizer: TextTokenizer, tokens: Sequence[tuple[int, Mapping[int, float] | None]], top: int, offset: int
) -> dict[str, Any]:  # fmt: skip
    """Lists with an entry for each token; nothing is known of the first one of a prompt. offset: where the text begins,
    in characters."""
    texts = [_text(tokenizer, i) for i, _ in tokens]
    offsets = list(accumulate(map(len, texts), initial=offset))[:-1]
    best = [
        place and {_text(tokenizer, i): _finite(place[i]) for i in _likeliest(tokenizer, place, top)}
        for _, place in tokens
    ]
    return {
        "tokens": texts,
        "token_logprobs": [place and _finite(place[i]) for i, place in tokens],
        "top_logprobs": best if top else None,
        "text_offset": offsets,
    }


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
