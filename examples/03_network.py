"""Networks are wired from parts given as values; counts come from formulas, logits only where they are wanted."""

import torch

from polytask import Transformer, build_config
from polytask.models import cost
from polytask.nn.cache import Context

big = build_config("gpt3", "175b")
print(f"GPT-3 has {cost.parameters(big):,} parameters; layer 1 sees {big.attention_of(1).window} tokens back")

config = build_config("generalist", depth=2, vocab_size=300, context_length=64)
network = Transformer(config).initialize(seed=0)
ids = torch.randint(300, (1, 10))
hidden = network(ids, Context(positions=torch.arange(10)[None]))  # (1, 10, D)
logits = network.logits(hidden[:, -1])  # (1, V)
print(f"{config.layers} layers of width {config.dim}: logits {tuple(logits.shape)}")

swapped = build_config("generalist", depth=2, vocab_size=300, feedforward={"kind": "MLP", "width": 512})
print("another feed-forward:", swapped.feedforward)
