"""The process and its pieces against formulas of their own and numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch.distributions import Normal, kl_divergence

from polytask.diffusion import guidance, process
from polytask.diffusion.samplers import draw
from polytask.diffusion.schedule import SCHEDULES, Schedule, path
from polytask.errors import ConfigError, SamplingError


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 50, 1000])
def test_noise_only_grows(name, steps):
    schedule = Schedule(name, steps)
    assert len(schedule.betas) == steps
    assert (schedule.betas > 0).all()
    assert (schedule.betas <= 0.999).all()
    assert (schedule.log_snr.diff() < 0).all()
    if steps >= 50:
        assert schedule.alpha_bar[-1] < 1e-3


def test_values_worked_out_by_hand():
    assert float(Schedule("linear", 1000).alpha_bar[-1]) == pytest.approx(4.0358e-5, rel=1e-4)
    half = math.cos(0.508 / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert float(Schedule("cosine", 1000).alpha_bar[499]) == pytest.approx(half, rel=1e-9)
    assert float(Schedule("sigmoid", 1000).alpha_bar[499]) == pytest.approx(0.5, rel=1e-9)
    quarter = (stats.logistic.cdf(3) - stats.logistic.cdf(-1.5)) / (stats.logistic.cdf(3) - stats.logistic.cdf(-3))
    assert float(Schedule("sigmoid", 1000).alpha_bar[249]) == pytest.approx(quarter, rel=1e-9)


@pytest.mark.parametrize("kind", ["epsilon", "x0", "v"])
def test_every_prediction_gives_the_picture_back(kind):
    x0, drawn, alpha_bar = noise(0, 4, 3, 8, 8), noise(1, 4, 3, 8, 8), torch.tensor([0.99, 0.7, 0.3, 0.01]).double()
    alpha_bar = alpha_bar.view(-1, 1, 1, 1)
    x = process.noised(x0, drawn, alpha_bar)
    said = process.target(kind, x0, drawn, alpha_bar)
    torch.testing.assert_close(process.clean(kind, said, x, alpha_bar), x0)
    torch.testing.assert_close(process.epsilon(x0, x, alpha_bar), drawn)


@pytest.mark.parametrize("kind", ["epsilon", "x0", "v"])
def test_min_snr_is_one_loss_in_all_predictions(kind):
    x0, drawn, wrong = noise(0, 2, 3, 4, 4), noise(1, 2, 3, 4, 4), noise(2, 2, 3, 4, 4)
    alpha_bar = torch.tensor([0.95, 0.4]).double().view(-1, 1, 1, 1)
    x = process.noised(x0, drawn, alpha_bar)
    said = process.target(kind, x0, drawn, alpha_bar) + 0.1 * wrong
    loss = process.min_snr(kind, alpha_bar) * (said - process.target(kind, x0, drawn, alpha_bar)) ** 2
    snr = alpha_bar / (1 - alpha_bar)
    wanted = snr.clamp(max=5) * (process.clean(kind, said, x, alpha_bar) - x0) ** 2
    torch.testing.assert_close(loss, wanted)


def test_posterior_is_that_of_a_product_of_gaussians():
    """Bayes' rule in one dimension, on a grid: q(x' | x, x0) is q(x | x') q(x' | x0) up to a constant."""
    x0, x, now, then = 0.6, -0.4, 0.3, 0.8
    grid = np.linspace(-6, 6, 200_001)
    density = stats.norm.pdf(grid, math.sqrt(then) * x0, math.sqrt(1 - then))
    density *= stats.norm.pdf(x, math.sqrt(now / then) * grid, math.sqrt(1 - now / then))
    density /= density.sum()
    mean = (grid * density).sum()
    found = process.posterior(torch.tensor(x0).double(), torch.tensor(x).double(), now, then)
    assert float(found.mean) == pytest.approx(mean, abs=1e-6)
    assert float(found.log_variance.exp()) == pytest.approx(((grid - mean) ** 2 * density).sum(), abs=1e-6)


def test_divergences_and_likelihoods():
    first, second = process.Gaussian(noise(0, 9), noise(1, 9)), process.Gaussian(noise(2, 9), noise(3, 9))
    wanted = kl_divergence(*(Normal(g.mean, (g.log_variance / 2).exp()) for g in (first, second)))
    torch.testing.assert_close(process.kl(first, second), wanted)
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    gaussian = process.Gaussian(torch.full_like(levels, 0.3), torch.full_like(levels, math.log(0.04)))
    likelihood = process.discretized_log_likelihood(levels, gaussian)
    assert float(likelihood.exp().sum()) == pytest.approx(1, abs=1e-8)  # of all levels together
    edge = stats.norm.cdf(levels[200] + 1 / 255, 0.3, 0.2) - stats.norm.cdf(levels[200] - 1 / 255, 0.3, 0.2)
    assert float(likelihood[200].exp()) == pytest.approx(edge, rel=1e-9)


def test_bits_per_dimension_of_a_picture_that_is_known():
    """A denoiser that knows the picture pays for the last step's rounding and for nothing else."""
    schedule = Schedule("linear", 40)
    x0 = (torch.randint(0, 256, (2, 1, 4, 4), generator=torch.Generator().manual_seed(0)).double() / 127.5) - 1

    def known(x, t):
        return x0, torch.full_like(x0, -1.0)

    bits = process.bits_per_dimension(known, x0, schedule, torch.Generator().manual_seed(1))
    after, two_after = (float(schedule.alpha_bar[step]) for step in (0, 1))
    least = (1 - after) / (1 - two_after) * (1 - two_after / after)  # the posterior's variance of step 1
    rounding = process.discretized_log_likelihood(x0, process.Gaussian(x0, torch.full_like(x0, math.log(least))))
    paid = process.prior_bits(x0, schedule) - rounding.flatten(1).mean(1) / math.log(2)
    torch.testing.assert_close(bits, paid, atol=1e-4, rtol=0)

    def ignorant(x, t):
        return torch.zeros_like(x0), torch.full_like(x0, 1.0)

    assert (process.bits_per_dimension(ignorant, x0, schedule, torch.Generator().manual_seed(1)) > bits + 1).all()


def test_no_choice_of_variance_makes_the_first_step_cost_without_bound():
    """An estimate one level off, before the network has learned what to choose: one such picture once cost more than
    all others of its batch, and the step was skipped as a spike."""
    schedule = Schedule("linear", 1000)
    x0 = torch.linspace(-0.9, 0.9, 48, dtype=torch.float64).view(1, 3, 4, 4)
    t = torch.zeros(1, dtype=torch.int64)
    for choice in (-1.0, 0.0, 1.0):
        variance = torch.full_like(x0, choice)
        assert 0 < process.bound(x0, x0, t, schedule, x0 + 2 / 255, variance).item() < 3


def test_guidance():
    c, u = noise(0, 2, 3, 4, 4), noise(1, 2, 3, 4, 4)
    torch.testing.assert_close(guidance.classifier_free(c, u, 1.0), c)
    torch.testing.assert_close(guidance.classifier_free(c, u, 0.0), u)
    torch.testing.assert_close(guidance.classifier_free(c, u, 4.0), 4 * c - 3 * u)


def test_thresholding_of_a_ramp():
    ramp = torch.linspace(-3, 3, 601).view(1, 1, 1, -1)
    found = guidance.dynamic(ramp, 0.9)
    s = float(np.quantile(np.abs(ramp.numpy()), 0.9))
    torch.testing.assert_close(found, ramp.clamp(-s, s) / s)
    assert float(found.max()) == 1
    half = ramp / 6
    torch.testing.assert_close(guidance.dynamic(half, 0.9), half)  # all within [-1, 1] already
    assert float(guidance.static(ramp).abs().max()) == 1


@pytest.mark.parametrize("share", [0.001, 0.5, 0.9, 0.995, 1.0])
@pytest.mark.parametrize("count", [1, 2, 7, 3072])
def test_quantiles_are_those_of_torch_and_numpy(share, count):
    x = noise(0, 2, count).float()
    found = guidance.quantile(x, share)
    torch.testing.assert_close(found, torch.quantile(x, share, dim=1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.numpy(), np.quantile(x.numpy(), share, axis=1).astype("f"), atol=1e-6, rtol=1e-6)


def test_a_picture_may_be_larger_than_torch_has_quantiles_for():
    x0 = torch.linspace(-4, 4, 3 * 2400 * 2400).view(1, 3, 2400, 2400)
    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(x0.flatten(1), 0.995, dim=1)
    found = guidance.dynamic(x0)
    assert float(found[0, 2, 2399, 2000]) == 1.0
    assert float(found[0, 2, 1200, 0] / x0[0, 2, 1200, 0]) == pytest.approx(1 / (4 * 0.995), rel=1e-4)


def test_augmentation_keeps_variance():
    low, drawn = noise(0, 3, 3, 64, 64).float(), noise(1, 3, 3, 64, 64).float()
    found = guidance.augmented(low, torch.tensor([0.0, 0.5, 1.0]), drawn)
    torch.testing.assert_close(found[0], low[0])
    torch.testing.assert_close(found[2], drawn[2], atol=1e-6, rtol=0)
    assert float(found[1].var()) == pytest.approx(1, abs=0.05)


def test_blur_is_that_of_scipy():
    low = noise(0, 2, 3, 9, 7)
    wanted = [[ndimage.gaussian_filter(c, 0.6, mode="nearest", radius=1) for c in p] for p in low.numpy()]
    torch.testing.assert_close(guidance.blurred(low, 0.6), torch.tensor(np.array(wanted)))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "euler", "heun", "dpm_solver"])
@pytest.mark.parametrize("steps", [1, 7])
def test_an_exact_denoiser_is_followed_to_its_picture(sampler, steps):
    """For one known picture the noise is known exactly, and every sampler ends at the picture."""
    schedule, picture = Schedule("cosine", 50), torch.tanh(noise(0, 1, 3, 8, 8)).float()

    def denoiser(x, t):
        return process.epsilon(picture, x, schedule.at(t.long()))

    found = draw(denoiser, noise(1, 2, 3, 8, 8).float(), schedule, steps, sampler=sampler)
    torch.testing.assert_close(found, picture.expand(2, -1, -1, -1), atol=2e-3, rtol=0)


def test_samplers_reach_the_variance_of_gaussian_data():
    """Data N(0, 0.25): the best estimate is linear, and drawn pictures must have its variance."""
    schedule, variance = Schedule("cosine", 1000), 0.25

    def denoiser(x, t):
        kept = schedule.at(t.long())
        x0 = kept.sqrt() * variance / (kept * variance + 1 - kept) * x
        return process.epsilon(x0, x, kept)

    for sampler, words in [("ddpm", {}), ("ddim", {"eta": 1.0}), ("ddim", {}), ("heun", {}), ("dpm_solver", {})]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(16, 3, 16, 16, generator=generator)
        found = draw(denoiser, x, schedule, 200, sampler=sampler, generator=generator, **words)
        assert float(found.var()) == pytest.approx(variance, rel=0.06), (sampler, words)


def test_mistakes_are_one_sentence():
    schedule = Schedule()
    x = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ConfigError, match="did you mean 'ddim'"):
        draw(lambda x, t: x, x, schedule, 10, sampler="dimm")
    with pytest.raises(ConfigError, match="from 1 to 1000"):
        path(schedule, 0)
    with pytest.raises(ConfigError, match="from 1 to 1000"):
        path(schedule, 1001)
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        Schedule("cosin")
    with pytest.raises(ConfigError, match="did you mean 'dynamic'"):
        guidance.thresholding("dynamc")
    seen = iter([0.0, 0.0, math.nan])
    with pytest.raises(SamplingError, match="step 3 of 5"):
        draw(lambda x, t: x + next(seen), x, schedule, 5)
