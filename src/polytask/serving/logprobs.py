"""Log-probabilities of tokens as the OpenAI API writes them down."""

from collections.abc import Mapping, Sequence
from typing import Any

from polytask.tokenizers.text import TextTokenizer

LEAST = -9999.0  # stands for minus infinity, which JSON does not have


def chat_logprobs(
    tokenizer: TextTokenizer, ids: Sequence[int], places: Sequence[Mapping[int, float]], top: int
) -> dict[str, Any]:  # fmt: skip
    """For each token itself, its bytes and the `top` likeliest ones in its place."""
    content = []
    for i, place in zip(ids, places):
        best = [_token(tokenizer, other, place[other]) for other in _likeliest(place, top)]
        content.append({**_token(tokenizer, i, place[i]), "top_logprobs": best})
    return {"content": content, "refusal": None}


def text_logprobs(
    tokenizer: TextTokenizer, ids: Sequence[int], places: Sequence[Mapping[int, float] | None], top: int, offset: int
) -> dict[str, Any]:  # fmt: skip
    """Lists with an entry for each token; nothing is known of the first one of a prompt. offset: where the text begins,
    in characters."""
    tokens = [tokenizer.decode([i], special=True) for i in ids]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    best = [
        place and {tokenizer.decode([i], special=True): _finite(place[i]) for i in _likeliest(place, top)}
        for place in places
    ]
    return {
        "tokens": tokens,
        "token_logprobs": [place and _finite(place[i]) for i, place in zip(ids, places)],
        "top_logprobs": best if top else None,
        "text_offset": offsets,
    }


def _token(tokenizer: TextTokenizer, i: int, logprob: float) -> dict[str, Any]:
    text = tokenizer.decode([i], special=True)
    return {"token": text, "logprob": _finite(logprob), "bytes": tokenizer.piece(i)}


def _likeliest(place: Mapping[int, float], count: int) -> list[int]:
    return sorted(place, key=place.__getitem__, reverse=True)[:count]


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)
