"""Predicting tokens: next-token, prefix and span-corruption batches differ in what they hold, not in their loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from polytask.data.batch import Batch
from polytask.errors import ConfigError
from polytask.models.heads import cross_entropy
from polytask.models.transformer import Transformer
from polytask.models.vision_language import VisionLanguage
from polytask.nn.cache import Context, Memory
from polytask.nn.experts import Routing
from polytask.training.objectives.loss import Loss


@dataclass(frozen=True)
class LanguageModelling:
    """Weighted cross-entropy of targets, in nats (Radford et al. 2018, equation 1; prefixes: Raffel et al. 2020).

    In training, the mean of the routing losses of all layers of experts is added to the loss, once for each batch. They
    are of the tokens that a process sees at once, so other than the rest they depend on how rows are split.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0

    def hidden(self, model: Transformer | VisionLanguage, batch: Batch) -> tuple[Tensor, list[Routing]]:
        """(B, T, D), and what layers of experts say."""
        return _decode(model, batch)

    def loss(self, model: Transformer | VisionLanguage, batch: Batch) -> Loss:
        hidden, routing = self.hidden(model, batch)
        total, token_losses = cross_entropy(
            hidden, model.head, batch.targets, batch.weights, label_smoothing=self.label_smoothing, z_loss=self.z_loss
        )
        weight, log = batch.weights.sum(), {}
        if model.training and routing:
            total = total + weight * torch.stack([layer.loss for layer in routing]).mean()
            log = {name: weight * figure for name, figure in _figures(routing).items()}
        if log or self.label_smoothing or self.z_loss:
            log["cross_entropy"] = (token_losses * batch.weights).sum()
        return Loss(total, weight, token_losses, log)


def _decode(
    model: Transformer | VisionLanguage, batch: Batch, memory: Memory | None = None
) -> tuple[Tensor, list[Routing]]:
    context = Context(batch.positions, batch.documents, batch.prefix, starts=batch.starts, memory=memory)
    if isinstance(model, VisionLanguage):
        assert batch.pixels is not None
        assert batch.shown is not None
        context.given = model.given(batch.pixels, batch.shown)
        model = model.decoder
    return model(batch.ids, context), context.take_routing()


def _figures(routing: list[Routing]) -> dict[str, Tensor]:
    """Means over layers. expert_load is the share of the expert that is chosen most, 1 at an even load."""
    return {
        "balance": torch.stack([layer.balance for layer in routing]).mean(),
        "router_z": torch.stack([layer.z for layer in routing]).mean(),
        "dropped": torch.stack([layer.dropped for layer in routing]).mean(),
        "expert_load": torch.stack([layer.load.max() * len(layer.load) for layer in routing]).mean(),
    }


class SequenceToSequence(LanguageModelling):
    """The same loss for a decoder that reads an encoder's output (Vaswani et al. 2017)."""

    def hidden(self, model: Transformer, batch: Batch) -> tuple[Tensor, list[Routing]]:
        if batch.encoder_ids is None or batch.encoder_positions is None:
            raise ConfigError(
                "An encoder-decoder needs data of the objective 'seq2seq'; these batches have no encoder_ids."
            )
        context = Context(batch.encoder_positions, batch.encoder_documents, causal=False)
        memory = model.encode(batch.encoder_ids, context)
        hidden, routing = _decode(model, batch, memory)
        return hidden, context.take_routing() + routing
