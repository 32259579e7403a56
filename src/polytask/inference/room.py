"""How large the key/value cache is, by what the machine has free."""

from dataclasses import dataclass

from torch.nn import Module

from polytask import runtime
from polytask.errors import ConfigError
from polytask.models.transformer import Transformer
from polytask.nn.paged import BLOCK


@dataclass(frozen=True)
class Room:
    """The smallest of these bounds holds.

    share: of the memory that is free when the engine is made. bytes: of keys and values. tokens: None means as many as
    max_requests sequences of full length have.
    """

    share: float = 0.5
    bytes: int | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"cache: share={self.share!r} must be above 0 and at most 1.")
        for name in ("bytes", "tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"cache: {name}={value!r} must be at least 1.")

    def blocks(self, network: Transformer, max_requests: int, length: int) -> int:
        """How many blocks of the network's cache fit. Raises ConfigError where not even one does."""
        config = network.config
        _, kv_heads, head_dim = config.attention_of(0).sizes(config.dim)
        weight = network.embedding.weight
        each = 2 * config.layers * kv_heads * head_dim * weight.element_size() * BLOCK
        read = config.context_length if config.encoder_layers else 0
        most = max_requests * (-(-length // BLOCK) - (-read // BLOCK)) if self.tokens is None else self.tokens // BLOCK
        bounds = [most]
        if free := runtime.free_bytes(weight.device):
            bounds.append(int(self.share * free) // each)
        if self.bytes is not None:
            bounds.append(self.bytes // each)
        if min(bounds) < 1:
            raise ConfigError(
                f"The key/value cache needs {each} bytes for {BLOCK} tokens, and there is room for none; give it more "
                "memory or load the model in a lower precision."
            )
        return min(bounds)


def weight_bytes(network: Module) -> int:
    """Bytes of parameters and buffers; what several names share counts once."""
    tensors = {t.data_ptr(): t for t in (*network.parameters(), *network.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())
