"""One document becomes the arrays of an objective.

next_token        read ids[:-1], predict ids[1:]; the weights say which predictions count
prefix            the same, and what is given before the first answer may be seen from both sides (Raffel et al. 2020,
                  section 3.2.1)
span_corruption   masked spans become sentinels; the model writes each sentinel and what it hid (section 3.1.4)
seq2seq           an encoder reads what is given, a decoder writes the answer
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from polytask.tokenizers.encode import Encoded, split_source

if TYPE_CHECKING:
    from polytask.tokenizers.text import TextTokenizer

Objective = Literal["next_token", "prefix", "span_corruption", "seq2seq"]
OBJECTIVES: tuple[Objective, ...] = ("next_token", "prefix", "span_corruption", "seq2seq")

NOISE = 0.15  # the share of tokens that are hidden (Raffel et al. 2020, table 6)
MEAN_SPAN = 3.0  # their mean length in tokens (table 7)


@dataclass
class Converted:
    """What one document puts into a row: ids, targets, weights (n,), the length of its two-sided prefix, and for an
    encoder-decoder what the encoder reads (m,)."""

    ids: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    prefix: int = 0
    encoder_ids: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)


def next_token(encoded: Encoded) -> Converted:
    """Every id but the last is read and every id but the first predicted."""
    return Converted(encoded.ids[:-1], encoded.ids[1:], encoded.weights[1:])


def prefix(encoded: Encoded, given: int | None = None) -> Converted:
    """What comes before the first answer is seen from both sides; `given` sets another length for it.

    Nothing is predicted inside of the prefix, where the answer is in plain sight.
    """
    converted = next_token(encoded)
    if given is None:
        weighted = np.flatnonzero(encoded.weights > 0)
        given = int(weighted[0]) if len(weighted) else len(converted)
    converted.prefix = min(given, len(converted))
    converted.weights = converted.weights.copy()
    converted.weights[: max(converted.prefix - 1, 0)] = 0
    return converted


def seq2seq(encoded: Encoded, tokenizer: "TextTokenizer") -> Converted:
    """The encoder reads all before the last answer. Raises TokenizerError for a document without an answer."""
    source, target = split_source(encoded, tokenizer)
    converted = next_token(target)
    converted.encoder_ids = source
    return converted


def noise_counts(length: int, sentinels: int) -> tuple[int, int]:
    """(hidden tokens, spans) for a text of `length` tokens, as T5 counts them.

    There are no more spans than sentinels or visible tokens, so that no two spans touch; a text of one token is hidden.
    """
    if length < 2:
        return length, min(length, 1)
    hidden = min(max(round(length * NOISE), 1), length - 1)
    spans = min(max(round(hidden / MEAN_SPAN), 1), sentinels, hidden, length - hidden)
    return hidden, spans


def corrupted_lengths(length: int, sentinels: int) -> tuple[int, int]:
    """Tokens of the corrupted text and of the text that restores it; both depend on the length alone."""
    hidden, spans = noise_counts(length, sentinels)
    return length - hidden + spans, hidden + spans


def corrupt(ids: np.ndarray, sentinels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(text with each hidden span as one sentinel, each sentinel followed by what it hid), for ids (n,), n > 0.

    Visible and hidden spans alternate, cut at random places (T5's random_spans_noise_mask); unlike there a text
    may also begin or end with either, or a short text of one span would always hide its end.
    """
    length = len(ids)
    hidden, spans = noise_counts(length, len(sentinels))
    if hidden == length:
        return sentinels[:1], np.concatenate([sentinels[:1], ids])
    seen = _split(length - hidden + 2, spans + 1, rng)
    seen[[0, -1]] -= 1
    lengths = np.empty(2 * spans + 1, dtype=np.int64)
    lengths[0::2] = seen
    lengths[1::2] = masked = _split(hidden, spans, rng)
    hides = np.repeat(np.arange(2 * spans + 1) % 2 == 1, lengths)
    used = sentinels[:spans]
    visible = np.insert(ids[~hides], np.cumsum(seen[:-1]), used)
    restored = np.insert(ids[hides], np.cumsum(masked) - masked, used)
    return visible, restored


def _split(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths >= 1 of `parts` random pieces of `total`, each way of cutting equally likely."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1 if parts > 1 else np.zeros(0, dtype=np.int64)
    return np.diff(np.concatenate([[0], cuts, [total]]))


def span_corruption(
    ids: np.ndarray, special: dict[str, int], rng: np.random.Generator, encoder: bool = False
) -> Converted:
    """A piece of plain text, ids (n,) without openers and <|end|>, to be restored.

    A decoder alone gets it in one document, <|task|> corrupted <|answer|> restored <|end|>; with `encoder` the
    corrupted text goes there.
    """
    visible, restored = corrupt(ids, sentinel_ids(special), rng)
    end = [special["<|end|>"]]
    answer = np.concatenate([[special.get("<|answer|>", special["<|pad|>"])], restored, end]).astype(np.int32)
    if encoder:
        weights = np.ones(len(answer) - 1, dtype=np.float32)
        return Converted(answer[:-1], answer[1:], weights, 0, np.concatenate([visible, end]).astype(np.int32))
    opener = [special["<|task|>"]] if "<|task|>" in special else []
    given = len(opener) + len(visible)
    whole = np.concatenate([opener, visible, answer]).astype(np.int32)
    weights = np.concatenate([np.zeros(given, np.float32), np.ones(len(answer) - 1, np.float32)])
    return Converted(whole[:-1], whole[1:], weights, given + 1)


def sentinel_ids(special: dict[str, int]) -> np.ndarray:
    """The ids of <|mask_0|>, <|mask_1|>, ... that the tokenizer has, in this order; (n,) int32."""
    found = []
    while (name := f"<|mask_{len(found)}|>") in special:
        found.append(special[name])
    return np.array(found, dtype=np.int32)
