"""How well a network predicts whole documents: nats a token, perplexity, bits a byte."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polytask.errors import ConfigError, DataError
from polytask.models.heads import cross_entropy
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context
from polytask.tasks.segment import Text
from polytask.tokenizers.encode import encode_many
from polytask.tokenizers.text import TextTokenizer

BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Perplexity:
    """loss: nats a token, the <|end|> of each document included. bits_per_byte does not depend on the tokenizer.

    documents: (nats, tokens, bytes) of each, in order.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    bytes: int
    documents: tuple[tuple[float, int, int], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class _Window:
    """ids[start:stop] of a document are read; predictions at the last `new` of these places count."""

    document: int
    start: int
    stop: int
    new: int


def perplexity(
    model: Any, tokenizer: TextTokenizer, texts: Iterable[str], *, stride: int | None = None,
    batch_tokens: int = BATCH_TOKENS, progress: Callable[[int, int], None] | None = None,
) -> Perplexity:  # fmt: skip
    """Of a network, or of what holds one as `.network`.

    Documents begin as in training. One longer than the context is read by windows of that length which move on by
    `stride` tokens (half of the context by default); each token is predicted once, from what its window holds before
    it. A smaller stride gives more context and takes more time. Raises ConfigError for a stride that leaves gaps,
    DataError where there is nothing to predict.
    """
    network: Transformer = getattr(model, "network", model).decoder
    context = network.config.context_length
    stride = max(1, context // 2) if stride is None else stride
    if not 1 <= stride <= context:
        raise ConfigError(f"perplexity: stride={stride} must be 1 to {context}, the context of this model.")
    texts = list(texts)
    documents = [encoded.ids for encoded in encode_many([[Text(text, target=True)] for text in texts], tokenizer)]
    windows = [window for i, ids in enumerate(documents) for window in _windows(i, len(ids) - 1, context, stride)]
    if not windows:
        raise DataError("perplexity: there is no text to measure; give one document or more.")
    nats = _measure(network, tokenizer, documents, windows, batch_tokens, progress)
    counted = [
        (nats[i], len(ids) - 1, len(text.encode("utf-8"))) for i, (ids, text) in enumerate(zip(documents, texts))
    ]
    return summed(counted)


def summed(documents: Sequence[tuple[float, int, int]]) -> Perplexity:
    """The figures of documents of (nats, tokens, bytes) each."""
    total, tokens, size = (sum(column) for column in zip(*documents))
    loss = total / tokens
    bits = total / math.log(2) / size if size else math.nan
    return Perplexity(loss, _exp(loss), bits, int(tokens), int(size), tuple(documents))


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


def _windows(document: int, length: int, context: int, stride: int) -> list[_Window]:
    found, seen = [], 0
    for start in range(0, length, stride):
        stop = min(start + context, length)
        found.append(_Window(document, start, stop, stop - seen))
        seen = stop
        if stop == length:
            break
    return found


def _measure(
    network: Transformer, tokenizer: TextTokenizer, documents: list[np.ndarray], windows: list[_Window],
    batch_tokens: int, progress: Callable[[int, int], None] | None,
) -> list[float]:  # fmt: skip
    """Nats of each document. Windows of similar length run together."""
    nats = [0.0] * len(documents)
    order = sorted(windows, key=lambda window: window.stop - window.start, reverse=True)
    trained, done, all_of_them = network.training, 0, len(order)
    network.eval()
    try:
        while order:
            size = max(1, batch_tokens // max(1, order[0].stop - order[0].start))
            batch, order = order[:size], order[size:]
            for window, loss in zip(batch, _losses(network, tokenizer, documents, batch)):
                nats[window.document] += loss
            done += len(batch)
            if progress is not None:
                progress(done, all_of_them)
    finally:
        network.train(trained)
    return nats


@torch.no_grad()
def _losses(
    network: Transformer, tokenizer: TextTokenizer, documents: list[np.ndarray], batch: list[_Window]
) -> list[float]:
    """Summed nats of what each window newly predicts."""
    length = max(window.stop - window.start for window in batch)
    ids, targets = np.zeros((2, len(batch), length), dtype=np.int64)
    weights = np.zeros((len(batch), length), dtype=np.float32)
    real = np.zeros((len(batch), length), dtype=np.int64)
    for row, window in enumerate(batch):
        size = window.stop - window.start
        document = documents[window.document]
        ids[row, :size] = document[window.start : window.stop]
        targets[row, :size] = document[window.start + 1 : window.stop + 1]
        weights[row, size - window.new : size] = 1
        real[row, :size] = 1
    device = network.embedding.weight.device
    given = [torch.from_numpy(array).to(device) for array in (ids, targets, weights, real)]
    positions = torch.arange(length, device=device).expand(len(batch), length)
    context = Context(positions, given[3], memory=_memory(network, tokenizer, len(batch), device))
    hidden = network(given[0], context)
    _, losses = cross_entropy(hidden, network.head, given[1], given[2])
    return losses.double().sum(1).tolist()


def _memory(network: Transformer, tokenizer: TextTokenizer, rows: int, device: torch.device) -> Any:
    """What an encoder reads beside a plain document: <|end|> alone."""
    if not network.config.encoder_layers:
        return None
    ids: Tensor = torch.full((rows, 1), tokenizer.special["<|end|>"], device=device)
    return network.encode(ids, Context(torch.zeros_like(ids), torch.ones_like(ids)))
