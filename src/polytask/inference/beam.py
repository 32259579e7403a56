"""Beam search with the length penalty of Wu et al. 2016, as one sequence that fills several slots."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from polytask.inference.sequence import Row, Sequence


def penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6)^alpha: what a log-probability of `length` tokens, end token included, is divided by."""
    return ((5 + length) / 6) ** alpha


@dataclass(frozen=True)
class Hypothesis:
    ids: list[int]
    logprob: float
    score: float
    ended: bool


@dataclass(eq=False)
class Beam(Sequence):
    """`width` partial answers with their log-probabilities; row i lives in slots[i]."""

    partial: list[list[int]] = field(default_factory=lambda: [[]])
    logprobs_sum: list[float] = field(default_factory=lambda: [0.0])
    finished: list[Hypothesis] = field(default_factory=list)

    def rows(self, tokens: int) -> list[Row]:
        if not self.generated:
            return super().rows(tokens)
        return [Row(slot, [ids[-1]], self.computed) for slot, ids in zip(self.slots, self.partial)]

    def advance(self, scores: Tensor, end: int, room: int, banned: list[int]) -> list[int]:
        """Takes the best continuations by scores (rows, V); which row each new row continues.

        An end token completes a hypothesis. Sets `finish` when no running row can beat the worst of `width` complete
        ones, or when `room` tokens have been written.
        """
        scores = scores.float()
        alpha, written = self.request.sampling.length_penalty, len(self.partial[0]) + 1
        if banned:
            scores[:, banned] = -torch.inf
        total = scores.log_softmax(dim=-1) + torch.tensor(self.logprobs_sum)[:, None]
        vocabulary = total.shape[1]
        best = total.flatten().topk(min(2 * self.width, total.numel()))
        parents, partial, sums = [], [], []
        for value, place in zip(best.values.tolist(), best.indices.tolist()):
            parent, token = divmod(place, vocabulary)
            if token == end:
                self._complete(self.partial[parent], value, value / penalty(written, alpha), True)
            elif len(parents) < self.width and value > -torch.inf:
                parents.append(parent)
                partial.append([*self.partial[parent], token])
                sums.append(value)
        if self._settled(sums, room) or not parents:
            self.finish = "stop"
        elif written >= room:
            for ids, value in zip(partial, sums):
                self._complete(ids, value, value / penalty(written, alpha), False)
            self.finish = "stop"
        else:
            self.partial, self.logprobs_sum = partial, sums
            self.generated = partial[0]
        return parents

    def _complete(self, ids: list[int], logprob: float, score: float, ended: bool) -> None:
        self.finished.append(Hypothesis(ids, logprob, score, ended))
        self.finished.sort(key=lambda h: -h.score)
        del self.finished[self.width :]

    def _settled(self, sums: list[float], room: int) -> bool:
        """Nothing that runs can still enter: log-probabilities only fall, and `room` gives the kindest penalty."""
        if len(self.finished) < self.width:
            return False
        alpha = self.request.sampling.length_penalty
        return not sums or max(sums) / penalty(room, alpha) <= self.finished[-1].score
