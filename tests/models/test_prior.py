"""The diffusion prior against diffusers' PriorTransformer, tiny and random; its choice of two; that it learns."""

from types import SimpleNamespace

import pytest
import torch

from polytask.errors import ConfigError
from polytask.models.clip import CLIP, CLIPConfig
from polytask.models.prior import Prior, PriorConfig, best, draw_embeddings, unit_scale
from polytask.models.vit import ViTConfig
from polytask.nn.attention import Attention
from polytask.nn.feedforward import MLP
from polytask.systems.gpt3 import gpt3
from polytask.training.objectives.prior import DiffusionPrior

EMBED, LENGTH, DIM = 20, 7, 32


def config(embed=EMBED, text_dim=EMBED, length=LENGTH, layers=2, dim=DIM, heads=4):
    return PriorConfig(embed, text_dim, length, layers, dim, Attention(heads, bias=True), MLP(4 * dim, "gelu", True))


def copy(theirs, ours):
    """Every tensor of theirs into ours."""
    left = dict(theirs.state_dict())
    names = {
        "text_input": "encoder_hidden_states_proj", "embedding_input": "embedding_proj", "noised_input": "proj_in",
        "step_input.0": "time_embedding.linear_1", "step_input.2": "time_embedding.linear_2", "norm": "norm_out",
        "output": "proj_to_clip_embeddings",
    }  # fmt: skip
    for i in range(ours.config.layers):
        block = f"transformer_blocks.{i}"
        names |= {
            f"blocks.{i}.attention_norm": f"{block}.norm1", f"blocks.{i}.feedforward_norm": f"{block}.norm3",
            f"blocks.{i}.attention.output": f"{block}.attn1.to_out.0",
            f"blocks.{i}.feedforward.up": f"{block}.ff.net.0.proj", f"blocks.{i}.feedforward.down": f"{block}.ff.net.2",
        }  # fmt: skip
    tensors = {
        f"{mine}.{kind}": left.pop(f"{other}.{kind}") for mine, other in names.items() for kind in ("weight", "bias")
    }
    for i in range(ours.config.layers):
        for kind in ("weight", "bias"):
            qkv = [left.pop(f"transformer_blocks.{i}.attn1.to_{one}.{kind}") for one in "qkv"]
            tensors[f"blocks.{i}.attention.qkv.{kind}"] = torch.cat(qkv)
    tensors |= {"position": left.pop("positional_embedding")[0], "query": left.pop("prd_embedding")[0, 0]}
    tensors |= {"mean": left.pop("clip_mean")[0], "deviation": left.pop("clip_std")[0]}
    assert not left
    ours.load_state_dict(tensors)


@pytest.fixture(scope="module")
def pair():
    from diffusers import PriorTransformer

    torch.manual_seed(0)
    theirs = PriorTransformer(
        num_attention_heads=4, attention_head_dim=8, num_layers=2, embedding_dim=EMBED, num_embeddings=LENGTH,
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    ours = Prior(config()).double().eval()
    copy(theirs, ours)
    return theirs, ours


def test_it_predicts_what_diffusers_predicts(pair):
    theirs, ours = pair
    x, text, embedding = (
        torch.randn(3, EMBED).double(),
        torch.randn(3, LENGTH, EMBED).double(),
        torch.randn(3, EMBED).double(),
    )
    mask = torch.arange(LENGTH) < torch.tensor([7, 3, 1])[:, None]
    t = torch.tensor([0, 17, 999])
    expected = theirs(x, t, embedding, text, mask).predicted_image_embedding
    torch.testing.assert_close(ours(x, t, text, embedding, mask), expected, rtol=0, atol=1e-6)  # steps in float32
    expected.sum().backward()
    ours(x, t, text, embedding, mask).sum().backward()
    torch.testing.assert_close(ours.query.grad, theirs.prd_embedding.grad[0, 0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        ours.text_input.weight.grad, theirs.encoder_hidden_states_proj.weight.grad, rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(ours.unscaled(x), theirs.post_process_latents(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.unscaled(ours.scaled(x)), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"embed": 768, "text_dim": 768, "length": 77, "layers": 20, "dim": 2048, "heads": 32}, 1_022_030_080),  # Karlo
        ({"embed": 1024, "text_dim": 1024, "length": 256, "layers": 24, "dim": 2048, "heads": 32}, 1_225_927_680),
    ],
)
def test_the_published_sizes_have_their_counts(sizes, expected):
    """As diffusers counts: statistics of the embeddings are among the learned numbers there."""
    with torch.device("meta"):
        network = Prior(config(**sizes))
    assert sum(p.numel() for p in network.parameters()) + 2 * sizes["embed"] == expected


def test_unit_vectors_of_the_papers_width_are_multiplied_by_17_2():
    network = Prior(config(embed=1024))
    vector = torch.nn.functional.normalize(torch.randn(2, 1024), dim=-1)
    torch.testing.assert_close(network.scaled(vector), 17.2 * vector)
    assert unit_scale(256) == pytest.approx(8.6)  # each channel has the same variance


def test_of_two_candidates_the_one_that_fits_the_text_is_kept():
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    drawn = torch.tensor([[[0.2, 5.0], [0.9, 0.0]], [[3.0, -0.1], [0.0, -0.2]]])
    assert torch.equal(best(drawn, text), torch.tensor([[0.9, 0.0], [3.0, -0.1]]))


def towers():
    vision = ViTConfig(8, 4, 1, 16, Attention(2, bias=True), MLP(32, "quick_gelu", True))
    text = gpt3(1, 16, 2, band=None, vocab_size=30, context_length=LENGTH)
    return CLIP(CLIPConfig(vision, text, EMBED)).initialize(0).eval()


def test_it_learns_the_embeddings_of_pictures_by_their_texts():
    clip, prior = towers(), Prior(config(text_dim=16)).initialize(0)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(6, 3, 8, 8, generator=generator) * 2 - 1
    ids = torch.randint(1, 29, (6, LENGTH), generator=generator)
    batch = SimpleNamespace(pixels=pixels, ids=ids, mask=torch.ones_like(ids, dtype=torch.bool), sources=torch.zeros(6))
    alpha_bar = torch.linspace(0.999, 0.001, 50).double()
    objective, optimizer, losses = DiffusionPrior(clip, alpha_bar), torch.optim.Adam(prior.parameters(), 2e-3), []
    torch.manual_seed(0)
    for _ in range(250):
        loss = objective.loss(prior, batch)
        optimizer.zero_grad()
        loss.sum.backward()
        optimizer.step()
        losses.append((loss.sum / loss.weight).item())
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
    assert all(parameter.grad is None for parameter in clip.parameters())

    def draw(denoise, x):  # one step from pure noise
        return denoise(x, torch.full((len(x),), 49))

    text, states = clip.encode_text(ids), clip.text_states(ids)
    found = draw_embeddings(prior, states, text, batch.mask, draw, generator=generator)
    pictures = clip.encode_image(pixels)
    guided = draw_embeddings(prior, states, text, batch.mask, draw, guidance=2.0, generator=generator)
    assert found.shape == guided.shape == (6, EMBED)
    centred = [torch.nn.functional.normalize(x - pictures.mean(0), dim=-1) for x in (found, pictures)]
    assert ((centred[0] @ centred[1].mT).argmax(1) == torch.arange(6)).sum() >= 4
    assert not torch.allclose(found, guided)


def test_padding_may_be_left_out(pair):
    _, ours = pair
    generator = torch.Generator().manual_seed(2)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, text, embedding, t = normal(3, EMBED), normal(3, LENGTH, EMBED), normal(3, EMBED), torch.tensor([0, 40, 999])
    mask = torch.arange(LENGTH) < torch.tensor([1, 2, 3])[:, None]
    padded, none = ours(x, t, text, embedding, mask), torch.zeros_like(mask)
    torch.testing.assert_close(ours(x, t, text[:, :3], embedding, mask[:, :3]), padded)
    torch.testing.assert_close(ours(x, t, text[:, :0], embedding), ours(x, t, text, embedding, none))


def test_a_text_that_is_too_long_is_refused():
    long = torch.zeros(1, LENGTH + 1, EMBED)
    with pytest.raises(ConfigError, match="cut them"):
        Prior(config())(torch.zeros(1, EMBED), torch.zeros(1), long, torch.zeros(1, EMBED))
