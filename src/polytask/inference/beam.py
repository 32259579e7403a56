"""Beam search with the length penalty of Wu et al. 2016: which partial answers go on, and which are complete."""

from collections.abc import Collection
from collections.abc import Sequence as Listing
from dataclasses import dataclass, field

import torch
from torch import Tensor

from polytask.inference.sequence import Sequence


def penalty(tokens: int, alpha: float) -> float:
    """((5 + tokens) / 6)^alpha: what a log-probability of so many tokens, <|end|> included, is divided by."""
    return ((5 + tokens) / 6) ** alpha


@dataclass(frozen=True)
class Hypothesis:
    """A complete answer: ids without <|end|>, the score it is ranked by, the network's own sum, whether it ended."""

    ids: list[int]
    score: float
    logprob: float
    ended: bool


@dataclass
class BeamSearch:
    """`sequences` are the rows of the beam, of which the first `live` hold a partial answer."""

    sequences: Listing[Sequence]
    ends: Collection[int]
    live: int = 1
    sums: list[float] = field(default_factory=lambda: [0.0])  # by the scores that hooks and penalties made
    finished: list[Hypothesis] = field(default_factory=list)

    def advance(self, scores: Tensor, logprobs: Tensor) -> list[int] | None:
        """Takes the best continuations; which live row each new one continues, or None when the search has ended.

        scores (live, V): log-probabilities after hooks and penalties; logprobs (live, V): by the network alone.
        """
        written = self.sequences[0].produced + 1
        total = scores + torch.tensor(self.sums, dtype=scores.dtype, device=scores.device)[:, None]
        # Of so many candidates at most `width` for each end can be one, so `width` rows can always go on.
        best = total.flatten().topk(min((1 + len(self.ends)) * self.width, total.numel()))
        parents, tokens, sums = [], [], []
        for value, place in zip(best.values.tolist(), best.indices.tolist()):
            parent, token = divmod(place, scores.shape[1])
            if value == -torch.inf:
                break
            if token in self.ends:
                ids = self.sequences[parent].ids[self.prompt :]
                self._complete(ids, value, self.sequences[parent].logprob + float(logprobs[parent, token]), True)
            elif len(parents) < self.width:
                parents.append(parent)
                tokens.append(token)
                sums.append(value)
        self._grow(parents, tokens, logprobs)
        self.sums, self.live = sums, len(sums)
        if not parents and not self.finished:  # a hook allows nothing at all
            self._complete(self.sequences[0].ids[self.prompt :], 0.0, self.sequences[0].logprob, False)
        if not parents or self._settled():
            return None
        if written >= self.sequences[0].limit:
            for sequence, value in zip(self.sequences, sums):
                self._complete(sequence.ids[self.prompt :], value, sequence.logprob, False)
            return None
        return parents

    def _grow(self, parents: list[int], tokens: list[int], logprobs: Tensor) -> None:
        olds = [
            (self.sequences[p].ids, self.sequences[p].logprob + float(logprobs[p, t])) for p, t in zip(parents, tokens)
        ]
        for sequence, (ids, logprob), token in zip(self.sequences, olds, tokens):
            sequence.ids, sequence.logprob = [*ids, token], logprob

    @property
    def width(self) -> int:
        return len(self.sequences)

    @property
    def prompt(self) -> int:
        return self.sequences[0].prompt

    def _complete(self, ids: list[int], value: float, logprob: float, ended: bool) -> None:
        alpha = self.sequences[0].sampling.length_penalty
        score = value / penalty(len(ids) + ended, alpha)
        self.finished.append(Hypothesis(ids, score, logprob, ended))
        self.finished.sort(key=lambda hypothesis: -hypothesis.score)
        del self.finished[self.width :]

    def _settled(self) -> bool:
        """Nothing that runs can still enter: sums only fall, and the longest answer has the kindest penalty."""
        first = self.sequences[0]
        kindest = penalty(first.limit, first.sampling.length_penalty)
        return len(self.finished) == self.width and max(self.sums) / kindest <= self.finished[-1].score
