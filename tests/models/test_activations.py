"""What a training step keeps, by formula and as autograd saves it: every kind of part, short rows and long ones."""

import pytest
import torch

from polytask.models import cost
from polytask.models.catalogue import build_config
from polytask.models.heads import cross_entropy
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context

ROWS = 2
SMALL = {"layers": 3, "dim": 96, "heads": 4, "vocab_size": 300, "context_length": 320}
NETWORKS = {
    "gpt3": ("gpt3", {}),
    "gpt3, dropout": ("gpt3", {"dropout": 0.1}),
    "palm": ("palm", {}),
    "lamda": ("lamda", {}),
    "glam": ("glam", {"experts": 8}),
    "glam, more at work": ("glam", {"experts": 8, "top_k": 4, "capacity": None, "layers": 4}),
    "glam, little room": ("glam", {"experts": 8, "top_k": 4, "capacity": 1.0, "layers": 4}),
    "bloom": ("bloom", {}),
    "transformer": ("transformer", {}),
    "transformer, pre-norm": ("transformer", {"placement": "pre"}),
    "rotary": ("gpt3", {"position": {"kind": "Rotary"}, "band": 40}),
    "query-key norm": ("gpt3", {"attention": {"kind": "Attention", "heads": 4, "kv_heads": 2,
                                              "qk_norm": {"kind": "RMSNorm"}}}),
    "cap and sandwich": ("palm", {"attention": {"kind": "Attention", "heads": 4, "cap": 30.0},
                                  "placement": "sandwich"}),
}  # fmt: skip


def saved_bytes(config, length, precision):
    """Bytes of all storages that the graph keeps between forward and backward, the weights' own apart."""
    network = Transformer(config).initialize(0).train()
    ids = torch.randint(config.vocab_size, (ROWS, length), generator=torch.Generator().manual_seed(0))
    positions, documents = torch.arange(length).expand(ROWS, length), torch.ones(ROWS, length, dtype=torch.long)
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    lower = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), lower:
        memory = network.encode(ids, Context(positions, documents)) if config.encoder_layers else None
        hidden = network(ids, Context(positions, documents, memory=memory))
        total, _ = cross_entropy(hidden, network.head, ids, torch.ones(ROWS, length))
    assert total.requires_grad
    return sum(saved.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("length", [96, 320])
@pytest.mark.parametrize("name", NETWORKS)
def test_activations_are_what_autograd_saves(name, length, precision):
    system, changes = NETWORKS[name]
    config = build_config(system, **(SMALL | changes))
    head = 4 * config.vocab_size * config.dim  # the output matrix's gradient, which the loss finds on its way
    expected = cost.activation_bytes(config, ROWS, length, precision) + cost.copy_bytes(config, precision) + head
    assert saved_bytes(config, length, precision) == pytest.approx(expected, rel=0.06)


def test_copies_in_low_precision_are_of_the_matrices_in_blocks():
    config = build_config("gpt3", **SMALL)
    blocks = 3 * (12 * 96**2 + 9 * 96)  # biases are copied too
    assert cost.copy_bytes(config, "bfloat16") == 2 * blocks
    assert cost.copy_bytes(config, "bfloat16", checkpointing=True) == 2 * blocks // 3
    assert cost.copy_bytes(config, "float32") == 0
