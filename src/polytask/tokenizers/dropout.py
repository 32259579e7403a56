"""BPE dropout (Provilkov et al. 2020, arXiv:1910.13267): a text is cut in another way each time it is learnt.

At every step of merging each merge that could be made is left out with a probability, and the first of the others in
the order of the vocabulary is made; where all are left out the word stays as it is (algorithm 1). The `tokenizers`
library does so too, by a generator that nobody can seed; here it is a function of a key.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from polytask.errors import TokenizerError
from polytask.tokenizers.pieces import BYTES
from polytask.tokenizers.text import TextTokenizer

SEGMENTATIONS = 4  # of a row, unless said
Cut = Callable[[Sequence[str]], list[list[int]]]


@dataclass(frozen=True)
class Dropout:
    """rate: of merges that are left out, from 0 to 1; 0.1 as published. times: in so many ways every row of texts is
    cut before training, since rows are tokenized once and laid side by side by their lengths; after as many epochs the
    same cuts come again. Captions of pictures are cut when they are loaded, anew in every epoch."""

    rate: float
    times: int = SEGMENTATIONS
    seed: int = 0

    def cut(self, tokenizer: TextTokenizer, *key: int) -> Cut:
        """What turns texts into ids in place of `tokenizer.encode_lists`, a function of the seed, the key and the
        texts. Raises TokenizerError where the tokenizer is no byte-level BPE."""
        merging = _merging(tokenizer)
        chance = random.Random(" ".join(map(str, (self.seed, *key)))).random

        def cut(texts: Sequence[str]) -> list[list[int]]:
            return [
                [merging.ids[piece] for word in merging.words(text) for piece in self._pieces(word, merging, chance)]
                for text in texts
            ]

        return cut

    def _pieces(self, word: str, merging: "_Merging", chance: Callable[[], float]) -> list[str]:
        pieces, ranks, rate = list(word), merging.ranks, self.rate
        while True:
            pairs = enumerate(pairwise(pieces))
            kept = [(ranks[pair], i) for i, pair in pairs if pair in ranks and (not rate or chance() >= rate)]
            if not kept:
                return pieces
            _, i = min(kept)
            pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]


class _Merging(NamedTuple):
    """The words of a text in the library's alphabet of bytes, the order of merges, and the ids of pieces."""

    words: Callable[[str], list[str]]
    ranks: dict[tuple[str, str], int]
    ids: dict[str, int]


@lru_cache(maxsize=4)
def _merging(tokenizer: TextTokenizer) -> _Merging:
    said = json.loads(tokenizer.to_json())
    model, library = said["model"], tokenizer._encoder
    plain = model["type"] == "BPE" and set(BYTES) <= set(model["vocab"]) and library.pre_tokenizer is not None
    unusual = ("ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")
    if not plain or said["normalizer"] or any(model.get(name) for name in unusual) or not model["merges"]:
        raise TokenizerError("tokenizer.dropout leaves out merges of byte-level BPE, and this tokenizer is none of it.")
    if tokenizer.template is not None or tokenizer.writing is not tokenizer:
        raise TokenizerError("tokenizer.dropout: this model's own layout of texts is not cut anew; leave it out.")

    def words(text: str) -> list[str]:
        return [word for word, _ in library.pre_tokenizer.pre_tokenize_str(text)]  # type: ignore[union-attr]

    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    return _Merging(words, {pair: rank for rank, pair in enumerate(pairs)}, model["vocab"])  # type: ignore[misc]
