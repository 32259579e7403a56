"""Small random networks that answer: what they say has no sense, but it must be the same however it is asked."""

import torch
from torch import Tensor

from polytask.models.catalogue import build_config
from polytask.models.config import TransformerConfig
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context
from polytask.tokenizers.text import TextTokenizer
from polytask.training import adapters

TOKENIZER = TextTokenizer.bytes()
END = TOKENIZER.special["<|end|>"]
NEVER = sorted(set(TOKENIZER.special.values()) - {END})


def network(system: str = "generalist", seed: int = 0, context: int = 96, **words) -> Transformer:
    """Random weights, larger than those that training begins with, so that answers differ from prompt to prompt."""
    sizes = {"depth": 2, "dim": 32, "heads": 2} if system == "generalist" else {"layers": 2, "dim": 32, "heads": 2}
    sizes |= {"vocab_size": TOKENIZER.vocab_size, "context_length": context}
    config = build_config(system, **{**sizes, **words})
    return loud(config, seed)


def loud(config: TransformerConfig, seed: int = 0) -> Transformer:
    """With weights of which answers depend."""
    built = Transformer(config).initialize(seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return built


def prompts(count: int, seed: int = 0, least: int = 1, most: int = 30) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(least, most + 1, (count,), generator=generator).tolist()
    first = TOKENIZER.special["<|text|>"]
    return [[first, *torch.randint(60, TOKENIZER.vocab_size, (n,), generator=generator).tolist()] for n in lengths]


@torch.no_grad()
def next_logits(
    built: Transformer, ids: list[int], encoder_ids: list[int] | None = None, prefix: int = 0
) -> Tensor:  # fmt: skip
    """Logits (V,) after `ids`, by one pass without a cache."""
    memory = None
    if encoder_ids is not None:
        memory = built.encode(torch.tensor([encoder_ids]), Context(torch.arange(len(encoder_ids))[None]))
    places = torch.arange(len(ids))[None]
    hidden = built(torch.tensor([ids]), Context(places, prefix=places < prefix if prefix else None, memory=memory))
    return built.logits(hidden[0, -1])


def allowed(logits: Tensor) -> Tensor:
    return logits.index_fill(0, torch.tensor(NEVER), -torch.inf)


def greedy(
    built: Transformer, ids: list[int], tokens: int, encoder_ids: list[int] | None = None, prefix: int = 0
) -> list[int]:  # fmt: skip
    """What greedy decoding gives, the whole text read again for each token."""
    written: list[int] = []
    while len(written) < tokens:
        best = int(allowed(next_logits(built, ids + written, encoder_ids, prefix)).argmax())
        if best == END:
            break
        written.append(best)
    return written


def adapt(built: Transformer) -> None:
    """Gives a network adapters that change its answers."""
    adapters.apply(built, adapters.LoRA())
    with torch.no_grad():
        for layer in adapters.adapted(built).values():
            layer.lora_B.weight.fill_(0.3)
