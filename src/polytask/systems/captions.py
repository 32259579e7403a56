"""What reads the captions of a picture system where no encoder comes from elsewhere: a small stack, trained along."""

from polytask.models.config import TransformerConfig
from polytask.nn.attention import Attention
from polytask.nn.feedforward import GatedMLP
from polytask.nn.norm import RMSNorm
from polytask.nn.position import Learned


def reader(layers: int, dim: int, vocab_size: int, context_length: int) -> TransformerConfig:
    """Heads of 64 channels; read as a text encoder, every token sees the whole caption."""
    return TransformerConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        layers=layers,
        dim=dim,
        attention=Attention(max(1, dim // 64)),
        feedforward=GatedMLP(64 * -(-8 * dim // (3 * 64))),
        norm=RMSNorm(),
        position=Learned(),
    )
