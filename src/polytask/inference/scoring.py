"""The likelihood of given continuations, in batches, without a cache and never with all logits at once."""

from collections.abc import Sequence as Listing
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from polytask.inference.sequence import Given
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context

BATCH_TOKENS = 8192
CHUNK_ELEMENTS = 1 << 24  # logits of one chunk


class Pair(NamedTuple):
    """A prompt and what is scored behind it; the rest as `Request` has it."""

    prompt: list[int]
    continuation: list[int]
    encoder_ids: list[int] | None = None
    prefix: int = 0
    given: Given | None = None


@dataclass(frozen=True)
class Score:
    """How likely a continuation is: the sum of log-probabilities (natural), over so many tokens, and whether each of
    them is the likeliest. logprobs, where asked for: of each token, the likeliest ones in its place and, last if it is
    not among them, the token itself."""

    logprob: float
    tokens: int
    greedy: bool
    logprobs: list[dict[int, float]] | None = None


def probabilities(scores: Listing[Score]) -> list[float]:
    """How probable each of some choices is, given that one of them comes: each is closed by <|end|>, so that their
    likelihoods compare whatever their lengths."""
    return torch.tensor([one.logprob for one in scores], dtype=torch.float64).softmax(0).tolist()


@torch.inference_mode()
def score(network: Transformer, pairs: Listing[Pair], logprobs: int | None = None) -> list[Score]:
    """A Score for each pair, with so many likeliest tokens in each place (none where it is None). Pairs of similar
    length run together."""
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].prompt) + len(pairs[i].continuation))
    scores: dict[int, Score] = {}
    while order:
        longest = len(pairs[order[-1]].prompt) + len(pairs[order[-1]].continuation)
        size = max(1, BATCH_TOKENS // max(longest, 1))
        batch, order = order[-size:], order[:-size]
        scores |= zip(batch, _batch(network, [pairs[i] for i in batch], logprobs))
    return [scores[i] for i in range(len(pairs))]


def _batch(network: Transformer, pairs: list[Pair], top: int | None) -> list[Score]:
    device = network.embedding.weight.device
    inputs = [(prompt + continuation)[:-1] for prompt, continuation, *_ in pairs]
    ids, documents, positions = padded_rows(inputs, device)
    memory = None
    if network.config.encoder_layers:
        read, sources, places = padded_rows([pair.encoder_ids or [] for pair in pairs], device)
        memory = network.encode(read, Context(places, sources))
    prefixes = [pair.prefix for pair in pairs]
    prefix = positions < torch.tensor(prefixes, device=device)[:, None] if any(prefixes) else None
    hidden = network(ids, Context(positions, documents, prefix, memory=memory, given=_given(pairs, ids)))
    spans = [(len(prompt) - 1, len(prompt) - 1 + len(continuation)) for prompt, continuation, *_ in pairs]
    states = torch.cat([hidden[row, a:b] for row, (a, b) in enumerate(spans)])
    targets = torch.tensor([token for _, continuation, *_ in pairs for token in continuation], device=device)
    logprobs, greedy, best = _weigh(network, states, targets.long(), top)
    results, start = [], 0
    for _, continuation, *_ in pairs:
        part = slice(start, start + len(continuation))
        listed = None if top is None else best[part]
        results.append(Score(float(logprobs[part].sum()), len(continuation), bool(greedy[part].all()), listed))
        start = part.stop
    return results


def _given(pairs: list[Pair], ids: Tensor) -> tuple[Tensor, Tensor] | None:
    """Where pictures stand in the rows (B, T), and their states."""
    seen = [(row, pair.given) for row, pair in enumerate(pairs) if pair.given is not None]
    if not seen:
        return None
    places = torch.zeros_like(ids, dtype=torch.bool)
    for row, given in seen:
        places[row, given.places] = True
    return places, torch.cat([given.states for _, given in seen]).to(ids.device)


def _weigh(
    network: Transformer, states: Tensor, targets: Tensor, top: int | None
) -> tuple[Tensor, Tensor, list[dict[int, float]]]:
    """log-probability of each target in float64, and whether it is the best, both (N,); what Score.logprobs holds."""
    chunk = max(1, CHUNK_ELEMENTS // network.config.vocab_size)
    logprobs, greedy, best = [targets.new_zeros(0).double()], [targets.new_zeros(0).bool()], []
    for start in range(0, len(targets), chunk):
        part = slice(start, start + chunk)
        logits = network.logits(states[part]).float()  # (n, V)
        wanted, total = logits.gather(1, targets[part, None]).squeeze(1), logits.logsumexp(dim=-1)
        logprobs.append((wanted - total).double())
        greedy.append(wanted >= logits.amax(dim=-1))
        if top is not None:
            values, ids = logits.topk(min(top, logits.shape[1]), dim=-1)
            rows = zip(ids.tolist(), (values - total[:, None]).tolist(), targets[part].tolist(), logprobs[-1].tolist())
            best += [dict(zip(names, numbers)) | {i: logprob} for names, numbers, i, logprob in rows]
    return torch.cat(logprobs), torch.cat(greedy), best


def padded_rows(rows: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """ids, documents (0 for padding) and positions, each (B, T)."""
    longest = max(1, *map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    positions = torch.arange(longest, device=device).expand_as(ids)
    return ids, (positions < lengths[:, None]).long(), positions
