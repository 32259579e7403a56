"""What a step of a network for pictures keeps, as autograd saves it and by hand."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from polytask.models import built
from polytask.systems.classifier import classifier
from polytask.training.parallel.blocks import blocks_of

ROWS, WIDTH, INNER, LAYERS = 8, 16, 64, 4


@pytest.mark.parametrize("lower", [False, True])
def test_activations_are_what_autograd_saves_in_either_precision(lower):
    config = classifier(16, 8, 1, classes=3)
    network = config.build().initialize(0).train()
    own = {parameter.data_ptr() for parameter in network.parameters()}
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage
        return tensor

    pixels = torch.zeros(4, 3, 16, 16)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=lower):
        network(pixels)
    expected = sum(storage.nbytes() for storage in saved.values())
    assert built.activation_bytes(config, lower=lower, pixels=pixels) == pytest.approx(expected, rel=0.01)


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        block = [nn.Linear(WIDTH, INNER), nn.ReLU(), nn.Linear(INNER, WIDTH)]
        self.blocks = nn.ModuleList(nn.Sequential(*block) for _ in range(LAYERS))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@dataclass(frozen=True)
class StackConfig:
    def build(self):
        return Stack()


def test_blocks_that_are_computed_again_keep_their_input_and_one_of_them_its_inside():
    x = torch.zeros(ROWS, WIDTH)
    assert built.activation_bytes(StackConfig(), x=x) == 4 * ROWS * LAYERS * (WIDTH + INNER)
    assert built.activation_bytes(StackConfig(), again=blocks_of, x=x) == 4 * ROWS * (LAYERS * WIDTH + INNER)
