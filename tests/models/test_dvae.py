"""The discrete autoencoder: counts, likelihood, relaxation, codes both ways, and that it learns."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from polytask.errors import ConfigError
from polytask.models.dvae import Autoencoder, AutoencoderConfig, inside, log_likelihood, outside
from polytask.nn.quantizer import Categorical, FiniteScalar
from polytask.training.objectives.dvae import Annealing, Autoencoding

SMALL = AutoencoderConfig(image=16, width=8, quantizer=Categorical(20), groups=3, blocks=2, first=12)


def pictures(count=3, side=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    return F.interpolate(coarse, size=side, mode="nearest") * 2 - 1


def test_the_published_network_has_the_counts_of_the_released_code():
    with torch.device("meta"):
        network = Autoencoder(AutoencoderConfig())
    counts = [sum(p.numel() for p in part.parameters()) for part in (network.encoder, network.decoder)]
    assert counts == [53_786_240, 43_829_766]
    assert (network.codebook, network.config.grid) == (8192, 32)


def test_it_computes_what_the_paper_writes_down():
    """Appendix A.1 and the released code once more, in a few lines: equal to the last bit when they were compared."""
    network = Autoencoder(SMALL).initialize(1).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05)
    seen = pictures().double()

    def conv(layer, x):
        return F.conv2d(x, layer.weight, layer.bias, padding=layer.kernel_size[0] // 2)

    def block(layer, x):
        y = x
        for one in layer.branch:
            y = conv(one, y.relu())
        return (x if isinstance(layer.identity, torch.nn.Identity) else conv(layer.identity, x)) + y / 36

    x = conv(network.encoder.input, 0.8 * (seen + 1) / 2 + 0.1)
    for number, group in enumerate(network.encoder.groups):
        for layer in group:
            x = block(layer, x)
        x = F.max_pool2d(x, 2) if number < 2 else x
    maps = conv(network.encoder.output, x.relu())
    torch.testing.assert_close(network.maps(seen).double(), maps, rtol=1e-6, atol=1e-9)
    codes = maps.argmax(1)
    assert torch.equal(network.codes(seen), codes)
    x = conv(network.decoder.input, F.one_hot(codes, 20).permute(0, 3, 1, 2).double())
    for number, group in enumerate(network.decoder.groups):
        for layer in group:
            x = block(layer, x)
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3) if number < 2 else x
    mu = conv(network.decoder.output, x.relu())[:, :3]
    expected = ((mu.sigmoid() - 0.1) / 0.8).clamp(0, 1) * 2 - 1
    torch.testing.assert_close(network.pixels(codes), expected, rtol=1e-9, atol=1e-9)
    kernels = [
        [layer.kernel_size[0] for layer in part.groups[0][0].branch] for part in (network.encoder, network.decoder)
    ]
    assert kernels == [[3, 3, 3, 1], [1, 3, 3, 3]]


@pytest.mark.parametrize(("mu", "log_b"), [(0.0, 0.0), (1.5, -1.0), (-2.0, 0.5)])
def test_the_likelihood_is_a_density_of_the_published_form(mu, log_b):
    """It sums to 1 over (0, 1), of which pictures cover the part that `inside` leaves."""
    x = torch.linspace(0.1, 0.9, 200_001, dtype=torch.float64)
    pixels = ((x - 0.1) / 0.8 * 2 - 1).expand(1, 3, 1, -1)
    statistics = torch.tensor([mu] * 3 + [log_b] * 3).double()[None, :, None, None].expand(1, 6, 1, x.numel())
    density = log_likelihood(pixels, statistics)[0, 0, 0].exp()
    b = math.exp(log_b)

    def distribution(at):  # of a Laplace variable, at the logit
        z = (math.log(at / (1 - at)) - mu) / b
        return 0.5 * math.exp(z) if z < 0 else 1 - 0.5 * math.exp(-z)

    assert torch.trapezoid(density, x).item() == pytest.approx(distribution(0.9) - distribution(0.1), abs=1e-5)
    at = 0.3
    by_hand = math.exp(-abs(math.log(at / (1 - at)) - mu) / b) / (2 * b * at * (1 - at))
    assert density[50_000].item() == pytest.approx(by_hand, rel=1e-5)


def test_pixels_go_inside_and_come_back():
    logits = inside(pictures()).logit()
    torch.testing.assert_close(outside(torch.cat([logits, logits], 1)), pictures(), rtol=0, atol=1e-6)
    assert inside(torch.tensor([-1.0, 0.0, 1.0])).tolist() == pytest.approx([0.1, 0.5, 0.9])


def test_the_relaxation_draws_codes_by_their_probability_and_the_divergence_is_that_of_torch():
    torch.manual_seed(0)
    maps = torch.tensor([2.0, 0.0, 1.0, -1.0])[None, :, None, None].expand(1, 4, 100, 100)
    shares, divergence = Categorical(4).relax(maps, 1 / 16)
    torch.testing.assert_close(shares.sum(1), torch.ones(1, 100, 100))
    drawn = torch.bincount(shares.argmax(1).flatten(), minlength=4) / 10_000
    torch.testing.assert_close(drawn, maps[0, :, 0, 0].softmax(0), rtol=0, atol=0.02)
    distribution, uniform = (torch.distributions.Categorical(logits=x) for x in (maps[0, :, 0, 0], torch.zeros(4)))
    each = torch.distributions.kl_divergence(distribution, uniform)
    torch.testing.assert_close(divergence, each[None] * 10_000, rtol=1e-5, atol=0)


def test_schedules_go_along_half_a_cosine():
    schedule = Annealing(1.0, 1 / 16, 1000)
    assert schedule.at(0) == 1.0
    assert schedule.at(500) == pytest.approx((1 + 1 / 16) / 2)
    assert schedule.at(250) == pytest.approx(1 / 16 + 15 / 16 * (1 + math.sqrt(0.5)) / 2)
    assert schedule.at(1000) == schedule.at(5000) == 1 / 16


def test_finite_scalars_use_every_code_once():
    part = FiniteScalar((3, 4, 5))
    assert (part.codes, part.channels) == (60, 3)
    grid = torch.cartesian_prod(*(torch.linspace(-4, 4, 60) for _ in range(3)))[::7]
    assert set(part.code(grid.T[None, :, :, None])[0, :, 0].tolist()) == set(range(60))
    assert part.code(torch.zeros(1, 3, 1, 1)).item() == 1 + 3 * 2 + 12 * 2  # the middle of each


def test_finite_scalars_read_their_codes_as_they_wrote_them():
    part = FiniteScalar((3, 4, 5))
    maps = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 2
    first = torch.nn.Conv2d(3, 7, 1)
    values, divergence = part.relax(maps, 1.0)
    torch.testing.assert_close(part.enter(first, part.code(maps)), first(values), rtol=1e-5, atol=1e-6)
    assert divergence.tolist() == [0, 0]
    for channel, levels in enumerate((3, 4, 5)):
        assert len(values[:, channel].unique()) <= levels
    maps.requires_grad_()
    part.relax(maps, 1.0)[0].sum().backward()
    assert (maps.grad > 0).all()  # through the rounding


@pytest.mark.parametrize("quantizer", [Categorical(32), FiniteScalar((4, 8))], ids=["categorical", "finite scalar"])
def test_it_learns_pictures_and_reports_the_use_of_its_codes(quantizer):
    config = AutoencoderConfig(image=16, width=16, quantizer=quantizer, groups=3, blocks=1, first=16)
    network, batch = Autoencoder(config).initialize(0), SimpleNamespace(pixels=pictures(8), sources=torch.zeros(8))
    objective = Autoencoding(Annealing(1.0, 1 / 16, 80), Annealing(0.0, 0.5, 50))
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    torch.manual_seed(0)
    figures = []
    for step in range(100):
        objective.begin(step)
        loss = objective.loss(network, batch)
        optimizer.zero_grad()
        loss.sum.backward()
        optimizer.step()
        figures.append({name: (value / loss.weight).item() for name, value in loss.log.items()})
    codes = network.codes(batch.pixels)
    assert codes.shape == (8, 4, 4)
    assert 0 <= codes.min() <= codes.max() < network.codebook == 32
    error = (network.pixels(codes) - batch.pixels).square().mean()
    assert error < 0.6 * (batch.pixels - batch.pixels.mean()).square().mean()
    assert figures[-1]["log_likelihood"] > figures[0]["log_likelihood"] + 0.25
    assert 1 / 32 < figures[-1]["codes_used"] <= 1
    assert 1 < figures[-1]["code_perplexity"] <= 32


def test_a_normal_likelihood_is_that_of_torch():
    network, batch = Autoencoder(SMALL).initialize(0), SimpleNamespace(pixels=pictures(3), sources=torch.zeros(3))
    torch.manual_seed(1)
    loss = Autoencoding(weight=Annealing(0.0, 0.0, 1), spread=0.1).loss(network, batch)
    torch.manual_seed(1)
    mean = network(batch.pixels, 1.0).statistics[:, :3].sigmoid()
    expected = -torch.distributions.Normal(mean, 0.1).log_prob(inside(batch.pixels)).mean()
    torch.testing.assert_close(loss.sum / loss.weight, expected)
    with pytest.raises(ConfigError, match="above 0"):
        Autoencoding(spread=0.0)


@pytest.mark.parametrize("quantizer", [Categorical(20), FiniteScalar((4, 5))], ids=["categorical", "finite scalar"])
def test_a_process_may_have_no_picture_of_a_last_batch(quantizer):
    network = Autoencoder(replace(SMALL, quantizer=quantizer)).initialize(0).eval()
    loss = Autoencoding().loss(network, SimpleNamespace(pixels=pictures(2), sources=torch.tensor([-1, -1])))
    assert [value.item() for value in (loss.sum, loss.weight, *loss.log.values())] == [0.0] * (2 + len(loss.log))


def test_the_divergence_is_weighed_as_published():
    """beta KL / (256 256 3) with 32 x 32 codes is beta / 192 of the mean divergence of a code (appendix A.2)."""
    network, batch = (
        Autoencoder(SMALL).initialize(0),
        SimpleNamespace(pixels=pictures(3), sources=torch.tensor([0, 0, -1])),
    )
    objective = Autoencoding(weight=Annealing(6.6, 6.6, 1))
    torch.manual_seed(1)
    loss = objective.loss(network, batch)
    maps = network.maps(batch.pixels[:2])
    mean = (maps.softmax(1) * (maps.log_softmax(1) + math.log(20))).sum(1).mean()
    expected = 6.6 * mean * 16 / (16 * 16 * 3)
    torch.testing.assert_close((loss.sum + loss.log["log_likelihood"]) / 2, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AutoencoderConfig(image=30), "multiple of 8"),
        (lambda: AutoencoderConfig(width=10), "multiple of 4"),
        (lambda: FiniteScalar((8, 1)), "at least 2"),
        (lambda: Autoencoder(SMALL).codes(torch.zeros(1, 3, 8, 8)), "resize"),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
