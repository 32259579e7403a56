"""The likelihood of ids that are given, never with all logits at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from polytask.models.transformer import Transformer

CHUNK_ELEMENTS = 1 << 24  # logits of one chunk


class Weighed(NamedTuple):
    """An id in its place: its log-probability, whether none is likelier, and the likeliest ids there, as `Score` has
    them."""

    logprob: float
    greedy: bool
    best: dict[int, float]


@dataclass(frozen=True)
class Score:
    """How likely a continuation is: the sum of log-probabilities (natural), over so many tokens, and whether each of
    them is the likeliest. logprobs, where asked for: of each token, the likeliest ones in its place and, last if it is
    not among them, the token itself."""

    logprob: float
    tokens: int
    greedy: bool
    logprobs: list[dict[int, float]] | None = None


def probabilities(scores: Sequence[Score]) -> list[float]:
    """How probable each of some choices is, given that one of them comes: each is closed by <|end|>, so that their
    likelihoods compare whatever their lengths."""
    return torch.tensor([one.logprob for one in scores], dtype=torch.float64).softmax(0).tolist()


def weigh(network: Transformer, states: Tensor, targets: Sequence[int], top: int) -> list[Weighed]:
    """How likely each target is after the hidden state (N, D) before it, beside the `top` likeliest ids."""
    chunk, found = max(1, CHUNK_ELEMENTS // network.config.vocab_size), list[Weighed]()
    wanted = torch.tensor(targets, device=states.device)
    for part, ids in zip(states.split(chunk), wanted.split(chunk), strict=True):
        logits = network.logits(part).float()  # (n, V)
        own, total = logits.gather(1, ids[:, None]).squeeze(1), logits.logsumexp(dim=-1)
        logprobs, greedy = (own - total).double().tolist(), (own >= logits.amax(dim=-1)).tolist()
        values, names = logits.topk(min(top, logits.shape[1]), dim=-1)
        best = [dict(zip(*row)) for row in zip(names.tolist(), (values - total[:, None]).tolist())]
        found += map(Weighed, logprobs, greedy, best)
    return found


def padded_rows(rows: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """ids, documents (0 for padding) and positions, each (B, T)."""
    longest = max(1, *map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    positions = torch.arange(longest, device=device).expand_as(ids)
    return ids, (positions < lengths[:, None]).long(), positions
