"""Vectors of texts that are only read."""

import pytest
import torch
from torch.testing import assert_close

from polytask.inference.reading import mean_states
from polytask.nn import masks
from polytask.nn.cache import Context
from tests.inference.networks import network, prompts


@pytest.mark.parametrize("system", ["generalist", "transformer"])
def test_texts_are_read_together_as_alone(system):
    built, texts = network(system, context=96), prompts(5)
    with torch.no_grad():
        for text, vector in zip(texts, mean_states(built, texts), strict=True):
            ids, context = torch.tensor([text]), Context(torch.arange(len(text))[None])
            states = built.encode(ids, context).states if system == "transformer" else built(ids, context)
            assert_close(vector, torch.nn.functional.normalize(states[0].mean(0), dim=0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("system", ["generalist", "transformer"])
def test_for_a_text_alone_no_mask_of_all_pairs_is_made(system, monkeypatch):
    """It would take memory quadratic in the length."""
    built, text = network(system, context=4096), prompts(1, least=3000, most=3000)
    for name in ("same_document", "causal"):
        monkeypatch.setattr(masks, name, lambda *_: pytest.fail("a mask was made"))
    assert mean_states(built, text).shape == (1, 32)
