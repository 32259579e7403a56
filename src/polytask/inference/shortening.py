"""Prompts that are longer than a network reads lose turns, solved examples or the end of a text."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from polytask.errors import Notice, TooLong
from polytask.tasks.segment import Segment, Text
from polytask.tokenizers.encode import prompt_ids
from polytask.tokenizers.text import TextTokenizer

Truncate = Literal["left", "right"]


class TruncationWarning(Notice):
    """A text was longer than the model reads, and was cut as asked."""


def shortened(
    segments: list[Segment], tokenizer: TextTokenizer, truncate: Truncate, over: Callable[[list[Segment]], int]
) -> list[Segment]:
    """What fits, where `over` says by how many tokens segments do not: the earliest turns or solved examples go first,
    then that end of the longest text is cut. Raises TooLong where that is not enough."""
    kept = segments
    while over(kept) > 0 and (fewer := _without_earliest(kept)):
        kept = fewer
    if kept is not segments:
        warnings.warn(
            "A conversation or its examples are longer than the model reads: the first "
            f"{len(segments) - len(kept)} of {len(segments)} parts are left out.",
            TruncationWarning,
            stacklevel=5,
        )
    return _cut(kept, longer, tokenizer, truncate) if (longer := over(kept)) > 0 else kept


def _without_earliest(segments: list[Segment]) -> list[Segment]:
    """All but the earliest solved example, or user's turn with its reply; none where there is but the question."""
    first = int(segments[0].role == "system")
    answers = [i for i in range(first, len(segments) - 1) if segments[i].target or segments[i].role == "assistant"]
    return [*segments[:first], *segments[answers[0] + 1 :]] if answers else []


def _cut(segments: list[Segment], tokens: int, tokenizer: TextTokenizer, truncate: Truncate) -> list[Segment]:
    """Without `tokens` tokens at one end of the longest text; a cut may merge with what stands beside it."""
    texts = [(i, segment) for i, segment in enumerate(segments) if isinstance(segment, Text)]
    longest, segment = max(texts, key=lambda part: len(part[1].text), default=(0, Text("")))
    ids, spare = tokenizer.encode(segment.text), 0
    wanted = len(prompt_ids(segments, tokenizer)) - tokens
    while tokens + spare < len(ids):
        kept = ids[tokens + spare :] if truncate == "left" else ids[: len(ids) - tokens - spare]
        text = tokenizer.decode(kept).strip("\N{REPLACEMENT CHARACTER}")
        shorter = [*segments[:longest], replace(segment, text=text), *segments[longest + 1 :]]
        if len(prompt_ids(shorter, tokenizer)) <= wanted:
            side = "first" if truncate == "left" else "last"
            warnings.warn(
                f"A text is longer than the model reads: the {side} {tokens + spare} of its {len(ids)} tokens are cut.",
                TruncationWarning,
                stacklevel=6,
            )
            return shorter
        spare += 1
    raise TooLong(
        f"The text is {tokens} tokens longer than this model reads, and no single part of it can be cut so far; "
        "shorten it, or give fewer examples."
    )
