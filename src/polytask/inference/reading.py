"""What a network makes of texts that it only reads: one vector for each."""

from collections.abc import Sequence

import torch
from torch import Tensor

from polytask.inference.scoring import padded_rows
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context


@torch.inference_mode()
def mean_states(network: Transformer, texts: Sequence[list[int]]) -> Tensor:
    """(N, D): the final hidden states of each text, an encoder's where there is one, averaged over its tokens and
    scaled to length 1, in float32."""
    ids, documents, positions = padded_rows(list(texts), network.embedding.weight.device)
    # Without padding nothing is masked but by order, which takes no memory that grows with the square of the length.
    context = Context(positions, None if len(set(map(len, texts))) == 1 else documents)
    hidden = network.encode(ids, context).states if network.config.encoder_layers else network(ids, context)
    there = (documents > 0)[..., None]  # (N, T, 1)
    mean = (hidden.float() * there).sum(1) / there.sum(1)
    return torch.nn.functional.normalize(mean, dim=-1)
