"""Predicting tokens: next-token, prefix and span-corruption batches differ in what they hold, not in their loss."""

from dataclasses import dataclass

from torch import Tensor

from polytask.data.batch import Batch
from polytask.errors import ConfigError
from polytask.models.heads import cross_entropy
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context, Memory
from polytask.training.objectives.loss import Loss


@dataclass(frozen=True)
class LanguageModelling:
    """Weighted cross-entropy of targets, in nats (Radford et al. 2018, equation 1; prefixes: Raffel et al. 2020)."""

    label_smoothing: float = 0.0
    z_loss: float = 0.0

    def hidden(self, model: Transformer, batch: Batch, memory: Memory | None = None) -> Tensor:
        """(B, T, D)"""
        context = Context(batch.positions, batch.documents, batch.prefix, memory=memory)
        return model(batch.ids, context)

    def loss(self, model: Transformer, batch: Batch) -> Loss:
        total, token_losses = cross_entropy(
            self.hidden(model, batch), model.head, batch.targets, batch.weights,
            label_smoothing=self.label_smoothing, z_loss=self.z_loss,
        )  # fmt: skip
        log = {"cross_entropy": (token_losses * batch.weights).sum()} if self.label_smoothing or self.z_loss else {}
        return Loss(total, batch.weights.sum(), token_losses, log)


class SequenceToSequence(LanguageModelling):
    """The same loss for a decoder that reads an encoder's output (Vaswani et al. 2017)."""

    def hidden(self, model: Transformer, batch: Batch, memory: Memory | None = None) -> Tensor:
        if batch.encoder_ids is None or batch.encoder_positions is None:
            raise ConfigError(
                "An encoder-decoder needs data of the objective 'seq2seq'; these batches have no encoder_ids."
            )
        memory = model.encode(
            batch.encoder_ids, Context(batch.encoder_positions, batch.encoder_documents, causal=False)
        )
        return super().hidden(model, batch, memory)
