"""The objective of diffusion: its loss against a direct computation, exact resume, and that a small network learns."""

import json
from dataclasses import dataclass, fields

import pytest
import torch

from polytask.diffusion import process
from polytask.errors import ConfigError
from polytask.models.config import TransformerConfig
from polytask.models.diffusion import Diffusion, DiffusionConfig
from polytask.models.transformer import Transformer
from polytask.models.unet import UNetConfig
from polytask.nn.attention import Attention
from polytask.nn.cache import Context
from polytask.nn.feedforward import MLP
from polytask.nn.part import from_plain, to_plain
from polytask.nn.position import Learned, RelativeBuckets
from polytask.training.config import TrainingConfig
from polytask.training.objectives.diffusion import Denoising
from polytask.training.trainer import Trainer


@dataclass
class Pictures:
    """The fields of a batch of pictures."""

    pixels: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor
    sources: torch.Tensor
    given: torch.Tensor | None = None

    def to(self, device):
        found = (getattr(self, field.name) for field in fields(self))
        return Pictures(*(None if one is None else one.to(device) for one in found))

    @property
    def seen(self):
        return len(self.pixels)


TEXT = TransformerConfig(
    vocab_size=19, context_length=6, layers=1, dim=16, attention=Attention(heads=2), feedforward=MLP(width=32),
    position=Learned(),
)  # fmt: skip


def unet(**words):
    given = {"pixels": 8, "channels": 16, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "groups": 8}
    return UNetConfig(**(given | {"head_dim": 16} | words))


def pictures(step=0, rows=8, size=8):
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, 19, (rows, 6), generator=generator)
    mask = torch.arange(6) < torch.randint(1, 7, (rows, 1), generator=generator)
    labels = torch.randint(0, 3, (rows,), generator=generator)
    pixels = (labels.float() - 1).view(-1, 1, 1, 1).expand(-1, 3, size, size) * 0.8  # a shade for each label
    return Pictures(pixels.contiguous(), ids, mask, labels, torch.zeros(rows, dtype=torch.int64))


def filled(config, seed=0):
    network, generator = Diffusion(config).initialize(seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.unet.last.parameters():
            parameter.normal_(std=0.1, generator=generator)
    return network


@pytest.mark.parametrize("kind", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("weighted", [True, False])
def test_the_loss_is_the_weighted_error(kind, weighted):
    network = filled(DiffusionConfig(unet(), prediction=kind)).eval()
    batch = pictures()
    batch.sources[-2:] = -1  # rows that fill up a batch count for nothing
    calls = []
    network.unet.register_forward_hook(lambda module, given, output: calls.append((given, output)))
    with torch.no_grad():
        loss = Denoising(min_snr=5.0 if weighted else None).loss(network, batch)
    (x, t, *_), output = calls[0]
    alpha_bar = network.schedule.alpha_bar[t].view(-1, 1, 1, 1)
    noise = (x - alpha_bar.sqrt() * batch.pixels) / (1 - alpha_bar).sqrt()
    wanted = {
        "epsilon": noise,
        "x0": batch.pixels,
        "v": alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * batch.pixels,
    }
    errors = (output - wanted[kind]).square().mean((1, 2, 3))[:6]
    snr = (alpha_bar / (1 - alpha_bar)).flatten()[:6]
    weights = {"epsilon": snr.clamp(max=5) / snr, "x0": snr.clamp(max=5), "v": snr.clamp(max=5) / (snr + 1)}[kind]
    assert float(loss.sum) == pytest.approx(float((errors * (weights if weighted else 1)).sum()), rel=1e-3)
    assert float(loss.weight) == 6
    assert sorted((t // 125).tolist()) == list(range(8))  # one step in each eighth of all
    with torch.no_grad():
        assert float(Denoising(min_snr=5.0 if weighted else None).loss(network, batch).sum) == float(loss.sum)


@pytest.mark.parametrize("training", [True, False])
def test_instruction_and_picture_are_left_out_apart_and_together(training):
    """A share of `drop` each, of what is learned from; all is seen in evaluation (Brooks et al. 2023)."""
    config = DiffusionConfig(unet(text=16, low=True), text=TEXT, low_pixels=8)
    network = Diffusion(config).initialize(0).train(training)
    rows = 400
    batch = pictures(rows=rows)
    batch.given, batch.mask = torch.full_like(batch.pixels, 0.5), torch.ones_like(batch.mask)
    calls = []
    network.unet.register_forward_hook(lambda module, given, output: calls.append(given))
    torch.manual_seed(0)
    with torch.no_grad():
        Denoising(drop=0.2).loss(network, batch)
    _, _, states, mask, _, low, *_ = calls[0]
    text, seen = mask.sum(1) > 1, low.flatten(1).abs().sum(1) > 0
    assert torch.equal(low[seen], batch.given[seen])
    assert not states[~text].any()
    counts = [int(part.sum()) for part in (text & seen, text & ~seen, ~text & seen, ~text & ~seen)]
    if not training:
        assert counts == [rows, 0, 0, 0]
    else:
        assert [round(count / rows, 1) for count in counts] == [0.4, 0.2, 0.2, 0.2]


def test_a_learned_variance_is_bound_and_leaves_the_mean_alone():
    network = filled(DiffusionConfig(unet(learned_variance=True))).train()
    grads = {}
    for weight in (0.0, 0.001):
        torch.manual_seed(0)
        network.zero_grad()
        Denoising(min_snr=None, variance_weight=weight).loss(network, pictures()).sum.backward()
        grads[weight] = network.unet.last.weight.grad.clone()
    assert torch.equal(grads[0.0][:3], grads[0.001][:3])
    assert float(grads[0.0][3:].abs().max()) == 0
    assert float(grads[0.001][3:].abs().max()) > 0
    assert Denoising().loss(network, pictures()).judged == "mse", "step 0 alone costs far more bits than any other"


def test_what_is_random_depends_on_seed_and_step_alone(tmp_path):
    """A run that is stopped and goes on ends with the weights of one that was not."""
    config = DiffusionConfig(unet(text=16, self_conditioning=True), text=TEXT)

    def train(folder, steps, resume=False):
        network = Diffusion(config).initialize(0)
        words = {"lr": 1e-3, "schedule": "constant", "ema": 0.9, "save_every": 2, "spike": 0.0, "evaluate_every": 0}
        trainer = Trainer(
            network, Denoising(drop=0.3), lambda step, micro: pictures(step), TrainingConfig(steps, **words), folder
        )
        trainer.run(resume=resume)
        return network.state_dict()

    whole = train(tmp_path / "whole", 5)
    train(tmp_path / "parts", 2)
    parts = train(tmp_path / "parts", 5, resume=True)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_all_processes_make_as_many_passes():
    """Whether the network sees its own first estimate is of the step alone: each process has a generator of its own."""
    network, calls = filled(DiffusionConfig(unet(self_conditioning=True))).train(), []
    network.unet.register_forward_hook(lambda *given: calls.append(0))
    objective, passes = Denoising(), []
    for step in range(8):
        objective.begin(step)
        for rank in range(2):
            torch.manual_seed(1000 * rank + step)
            calls.clear()
            objective.loss(network, pictures())
            passes.append(len(calls))
    assert passes[::2] == passes[1::2]
    assert set(passes) == {1, 2}


def test_frozen_text_stays_and_trained_text_moves():
    for frozen in (True, False):
        network = filled(DiffusionConfig(unet(text=16), text=TEXT, frozen_text=frozen)).train()
        with torch.no_grad():
            for parameter in network.unet.parameters():
                parameter.add_(0.02)
        Denoising(drop=0.0).loss(network, pictures()).sum.backward()
        assert all((p.grad is None) == frozen for p in network.text.network.blocks.parameters())


def test_an_encoder_of_an_encoder_decoder_reads_alone():
    """T5's form: buckets of distances, and nothing of the decoder is kept."""
    t5 = TransformerConfig(
        vocab_size=19, context_length=6, layers=1, encoder_layers=2, dim=16, attention=Attention(heads=2, scale=1.0),
        feedforward=MLP(width=32), position=RelativeBuckets(buckets=8, furthest=16, shared=True),
    )  # fmt: skip
    network = Diffusion(DiffusionConfig(unet(text=16), text=t5, frozen_text=True)).initialize(0).eval()
    assert not any(".cross" in name for name, _ in network.named_parameters())
    batch = pictures()
    whole = Transformer(t5).initialize(7)
    network.text.take(whole)
    seen = batch.mask
    read = whole.encode(batch.ids, Context(torch.arange(6).expand(8, 6), seen.long(), causal=False)).states
    torch.testing.assert_close(network.condition(batch.ids, batch.mask).states[seen], read[seen])
    states = network.condition(batch.ids, batch.mask).states
    shorter = network.condition(batch.ids[:, :4], batch.mask[:, :4]).states
    inside = batch.mask.sum(1) <= 4
    seen = batch.mask[inside][:, :4]
    torch.testing.assert_close(states[inside][:, :4][seen], shorter[inside][seen], atol=1e-5, rtol=1e-4)


def test_what_is_left_out_is_not_seen():
    network = filled(DiffusionConfig(unet(text=16, pooled=8), text=TEXT, classes=3)).eval()
    batch, x, t = pictures(rows=2), torch.randn(2, 3, 8, 8), torch.tensor([10, 600])
    condition = network.condition(batch.ids, batch.mask, batch.labels)
    other = network.condition(batch.ids.flip(0), batch.mask.flip(0), (batch.labels + 1) % 3)
    with torch.no_grad():
        torch.testing.assert_close(network(x, t, condition.none()), network(x, t, other.none()))
        unlabelled = network.condition(batch.ids, batch.mask, torch.full((2,), -1))
        torch.testing.assert_close(network(x, t, unlabelled.none()), network(x, t, condition.none()))
        plain, none = network(x, t, condition), network(x, t, condition.none())
        guided = network.guided(x, t, condition, torch.tensor([3.0, 1.0]))
        torch.testing.assert_close(guided[0], 3 * plain[0] - 2 * none[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(guided[1], plain[1], atol=1e-5, rtol=1e-4)


def test_two_scales_guide_towards_a_picture_and_a_text():
    """InstructPix2Pix, equation 3: e(0, 0) + s_I (e(I, 0) - e(0, 0)) + s_T (e(I, T) - e(I, 0))."""
    network = filled(DiffusionConfig(unet(text=16, low=True), text=TEXT, low_pixels=8)).eval()
    with torch.no_grad():  # at first no text is heard
        for name, parameter in network.unet.named_parameters():
            if name.endswith(".attention.output.weight"):
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(3))
    batch, x, t = pictures(rows=4), torch.randn(4, 3, 8, 8), torch.tensor([10, 300, 600, 900])
    texts, towards = torch.tensor([3.0, 1.0, 1.0, 4.0]), torch.tensor([1.5, 2.0, 1.0, 1.0])
    low, condition = torch.randn(4, 3, 8, 8), network.condition(batch.ids, batch.mask)
    with torch.no_grad():
        both, picture = network(x, t, condition, low), network(x, t, condition.none(), low)
        nothing = network(x, t, condition.none(), torch.zeros_like(low))
        s_i, s_t = towards.view(-1, 1, 1, 1), texts.view(-1, 1, 1, 1)
        wanted = nothing + s_i * (picture - nothing) + s_t * (both - picture)
        assert not torch.allclose(picture, nothing, atol=1e-4)
        assert not torch.allclose(picture, both, atol=1e-4)
        found = network.guided(x, t, condition, texts, low, picture_guidance=towards)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
        plain = network.guided(x, t, condition, texts, low)
        ones = network.guided(x, t, condition, texts, low, picture_guidance=torch.ones(4))
        torch.testing.assert_close(ones, plain)
        torch.testing.assert_close(found[3], plain[3], atol=1e-5, rtol=1e-4)


def test_a_smaller_picture_is_seen_with_noise_of_its_level():
    network = filled(DiffusionConfig(unet(low=True, augmentation=True), low_pixels=4)).train()
    calls = []
    network.unet.register_forward_hook(lambda module, given, output: calls.append(given))
    torch.manual_seed(0)
    batch = pictures()
    Denoising().loss(network, batch)
    *_, low, level, _ = calls[0]
    assert low.shape == (8, 3, 4, 4)
    assert level.unique().numel() == 8
    clean = torch.nn.functional.avg_pool2d(batch.pixels, 2)
    spread = (low - clean).flatten(1).std(1)
    assert torch.corrcoef(torch.stack([spread, level]))[0, 1] > 0.8


def test_a_part_is_learned_with_the_same_part_of_the_smaller_picture():
    network = filled(DiffusionConfig(unet(pixels=16, low=True, attention=()), low_pixels=8, prediction="x0")).train()
    calls = []
    network.unet.register_forward_hook(lambda module, given, output: calls.append(given))
    batch = pictures(size=16)
    batch.pixels = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    small = torch.nn.functional.avg_pool2d(batch.pixels, 2)
    places = set()
    for seed in range(8):
        torch.manual_seed(seed)
        Denoising(crop=8).loss(network, batch)
        x, low = calls[-1][0], calls[-1][5]
        assert x.shape[-2:] == (8, 8)
        found = [(top, left) for top in range(5) for left in range(5)
                 if torch.allclose(small[..., top : top + 4, left : left + 4], low)]  # fmt: skip
        assert len(found) == 1
        places |= set(found)
    assert len(places) > 3
    with pytest.raises(ConfigError, match="crop=7 must be a multiple of 2"):
        Denoising(crop=7).loss(network, batch)


def test_configurations_survive_a_file():
    config = DiffusionConfig(unet(text=16, pooled=8), text=TEXT, classes=3, prediction="v")
    assert from_plain(json.loads(json.dumps(to_plain(config)))) == config


def test_a_small_network_learns_shades_by_label():
    """Guided by its label, a picture gets the label's shade."""
    from polytask.inference.images import ImageEngine, ImageRequest

    torch.manual_seed(0)
    network = Diffusion(DiffusionConfig(unet(pooled=32, attention=()), classes=3, prediction="v")).initialize(0).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    losses = []
    for step in range(150):
        loss = Denoising().loss(network, pictures(step, rows=16))
        optimizer.zero_grad()
        (loss.sum / loss.weight).backward()
        optimizer.step()
        losses.append(float(loss.log["mse"] / loss.weight))
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])
    network.eval()
    engine = ImageEngine(network)
    handles = [
        engine.submit(ImageRequest(network.condition(labels=torch.tensor([label])), steps=10, seed=label))
        for label in range(3)
    ]
    shades = [float(handle.result().mean()) for handle in handles]
    assert shades == pytest.approx([-0.8, 0.0, 0.8], abs=0.2)


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="did you mean 'epsilon'"):
        DiffusionConfig(unet(), prediction="epsilom")
    with pytest.raises(ConfigError, match=r"width 16, but unet\.text=8"):
        DiffusionConfig(unet(text=8), text=TEXT)
    with pytest.raises(ConfigError, match=r"unet\.pooled"):
        DiffusionConfig(unet(), classes=3)
    with pytest.raises(ConfigError, match="low_pixels"):
        DiffusionConfig(unet(low=True))
    assert process.min_snr("x0", torch.tensor([0.5])) == 1
