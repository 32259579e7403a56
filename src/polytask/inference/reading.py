"""What a network makes of texts that it only reads: how likely each token is, and one vector for a whole text."""

from collections.abc import Sequence

import torch
from torch import Tensor

from polytask.inference.scoring import CHUNK_ELEMENTS, _rows
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context


@torch.inference_mode()
def token_logprobs(network: Transformer, ids: list[int], top: int) -> list[dict[int, float] | None]:
    """For each id, the `top` likeliest tokens in its place and itself with their log-probabilities (natural); None for
    the first, before which there is nothing. For decoders that see no token after its own place."""
    rows, documents, positions = _rows([ids], network.embedding.weight.device)
    hidden = network(rows, Context(positions, documents))[0]
    places: list[dict[int, float] | None] = [None]
    chunk = max(1, CHUNK_ELEMENTS // network.config.vocab_size)
    for start in range(0, len(ids) - 1, chunk):
        logprobs = network.logits(hidden[start : min(start + chunk, len(ids) - 1)]).float().log_softmax(-1)
        values, tokens = logprobs.topk(min(top, logprobs.shape[1]))
        for row, (best, names) in enumerate(zip(values.tolist(), tokens.tolist())):
            own = ids[start + row + 1]
            places.append(dict(zip(names, best)) | {own: float(logprobs[row, own])})
    return places


@torch.inference_mode()
def mean_states(network: Transformer, texts: Sequence[list[int]]) -> Tensor:
    """(N, D): the final hidden states of each text, an encoder's where there is one, averaged over its tokens and
    scaled to length 1, in float32."""
    ids, documents, positions = _rows(list(texts), network.embedding.weight.device)
    if network.config.encoder_layers:
        hidden = network.encode(ids, Context(positions, documents)).states
    else:
        hidden = network(ids, Context(positions, documents))
    there = (documents > 0)[..., None]  # (N, T, 1)
    mean = (hidden.float() * there).sum(1) / there.sum(1)
    return torch.nn.functional.normalize(mean, dim=-1)
