"""Every step of every sampler beside diffusers' schedulers; the import of diffusers takes seconds, so this file alone
has it."""

import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UnCLIPScheduler,
)

from polytask.diffusion.guidance import dynamic
from polytask.diffusion.samplers import SAMPLERS, ddim_inversion, estimate
from polytask.diffusion.schedule import Schedule, path

KINDS = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}
SCHEDULERS = {
    "ddim": (DDIMScheduler, {"clip_sample": False}, 1.0),
    "euler": (EulerDiscreteScheduler, {}, None),
    "heun": (HeunDiscreteScheduler, {}, None),
    "dpm_solver": (DPMSolverMultistepScheduler, {"final_sigmas_type": "zero"}, 1.0),
}


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def denoiser(x, t):
    """Neither linear in x nor the same at all steps."""
    return torch.tanh(1.3 * x + 0.001 * t) * 0.7 + 0.1 * x.roll(1, -1)


def ours(name, schedule, way, x, kind, generator=None, output=denoiser, **words):
    """Every picture on the way, the last one clean."""
    made = ddim_inversion if name == "inversion" else SAMPLERS.get(name)
    sampling, seen = made(way, x, generator, **words), []
    query = next(sampling)
    try:
        while True:
            found = estimate(kind, output(query.x, query.now.t), query.x, query.now)
            query = sampling.send(found)
            seen.append(query.x)
    except StopIteration as done:
        return [*seen, done.value]


def theirs(scheduler, x, in_sigma, output=denoiser, **words):
    """The same pictures of a scheduler; those in terms of sigma are scaled to unit variance, as ours are."""
    x, seen = x * scheduler.init_noise_sigma if in_sigma else x, []
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(x, t)
        seen.append(given)
        x = scheduler.step(output(given, float(t)), t, x, **words).prev_sample
    return [*seen[1:], x]


def exact(their, schedule):
    """The scheduler in float64: in float32 the cosine's last alpha_bar, some 1e-9, has lost five of its digits."""
    their.betas, their.alphas, their.alphas_cumprod = schedule.betas, 1 - schedule.betas, schedule.alpha_bar
    return their


def close(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.double(), b.double(), atol=1e-5 * max(1.0, float(b.abs().max())), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_step_is_that_of_diffusers(name, kind, spacing):
    if name == "heun" and kind == "x0":
        pytest.skip("diffusers has no x0 prediction there")
    make, words, unit = SCHEDULERS[name]
    schedule = Schedule("linear", 1000)
    their = make(trained_betas=schedule.betas.numpy(), prediction_type=KINDS[kind], timestep_spacing=spacing, **words)
    their.set_timesteps(20)
    times = list(dict.fromkeys(round(float(t)) for t in their.timesteps))
    way = schedule.moments(times)
    if not (name == "dpm_solver" and spacing == "leading"):  # theirs leaves out the first of one step more
        assert way == path(schedule, 20, spacing)
    x = noise(0, 2, 3, 4, 4)
    # Their first picture is noise of the variance that sigma says; the same picture for both.
    start = x if unit else x * their.init_noise_sigma / (1 + way[0].sigma ** 2) ** 0.5
    close(ours(name, schedule, way, start, kind), theirs(their, x, in_sigma=not unit))


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_karras_spacing_is_that_of_diffusers(name):
    schedule = Schedule("linear", 1000)
    their = SCHEDULERS[name][0](trained_betas=schedule.betas.numpy(), use_karras_sigmas=True)
    their.set_timesteps(12)
    way = path(schedule, 12, "karras")
    sigmas = torch.tensor([moment.sigma for moment in way], dtype=torch.float64)
    wanted = their.sigmas if name == "euler" else torch.cat([their.sigmas[:1], their.sigmas[1:-1:2], their.sigmas[-1:]])
    torch.testing.assert_close(sigmas, wanted.double(), atol=1e-4, rtol=1e-4)
    times = torch.tensor([moment.t for moment in way[:-1]])
    wanted = their.timesteps if name == "euler" else torch.cat([their.timesteps[:1], their.timesteps[1::2]])
    torch.testing.assert_close(times, wanted.float(), atol=0.02, rtol=1e-3)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_noisy_ddim(eta):
    schedule = Schedule("cosine", 1000)
    their = exact(DDIMScheduler(clip_sample=False, timestep_spacing="trailing"), schedule)
    their.set_timesteps(10)
    x = noise(1, 2, 3, 4, 4)
    a, b = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    found = ours("ddim", schedule, path(schedule, 10), x, "epsilon", a, eta=eta)
    # Noise is drawn where it has a part: the last step of theirs draws one more, multiplied by 0.
    close(found, theirs(their, x, False, eta=eta, generator=b))


@pytest.mark.parametrize(("variance", "gamma"), [("fixed_small", 0.0), ("fixed_large", 1.0), ("learned_range", 0.0)])
@pytest.mark.parametrize("steps", [10, 1000])
def test_ancestral_steps(variance, gamma, steps):
    schedule = Schedule("cosine", 1000)
    their = DDPMScheduler(clip_sample=False, variance_type=variance, timestep_spacing="leading")
    their = exact(their, schedule)
    their.set_timesteps(steps)
    way = path(schedule, steps, "leading")
    x = noise(2, 2, 3, 4, 4)

    def output(x, t):
        said = denoiser(x, t)
        return torch.cat([said, torch.sin(3 * x)], 1) if variance == "learned_range" else said

    # A thousand steps of such a denoiser overflow; the first and the last of them are compared.
    for part in [slice(0, 10)] if steps == 10 else [slice(0, 4), slice(996, 1000)]:
        a, b = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
        found = ours("ddpm", schedule, way[part.start : part.stop + 1], x, "epsilon", a, output, gamma=gamma)
        then, seen = x, []
        for t in their.timesteps[part]:
            then = their.step(output(then, float(t)), int(t), then, generator=b).prev_sample
            seen.append(then)
        close(found, seen)


@pytest.mark.parametrize("learned", [True, False])
def test_unclip_steps(learned):
    """Karlo's scheduler: the cosine schedule and the learned range between the posterior's variance and the step's."""
    schedule = Schedule("cosine", 1000)
    their = UnCLIPScheduler(
        num_train_timesteps=1000, clip_sample=False, variance_type="learned_range" if learned else "fixed_small_log"
    )
    torch.testing.assert_close(their.betas.double(), schedule.betas, atol=1e-6, rtol=1e-5)
    exact(their, schedule).set_timesteps(25)
    times = [int(t) for t in their.timesteps]
    x, seen = noise(4, 2, 3, 4, 4), []

    def output(x, t):
        said = denoiser(x, t)
        return torch.cat([said, torch.sin(3 * x)], 1) if learned else said

    a, b = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    found = ours("ddpm", schedule, schedule.moments(times), x, "epsilon", a, output)
    for t, then in zip(times, [*times[1:], None], strict=True):
        if then is None:  # theirs draws noise of the least variance at a last step that is not 0
            break
        x = their.step(output(x, float(t)), t, x, prev_timestep=then, generator=b).prev_sample
        seen.append(x)
    close(found[:-1], seen)


def test_dynamic_thresholding_is_that_of_diffusers():
    their = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=1.5)
    x0 = 2 * noise(5, 4, 3, 8, 8).float()
    torch.testing.assert_close(dynamic(x0, 0.95, most=1.5), their._threshold_sample(x0))


@pytest.mark.parametrize(("name", "their"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_schedules_are_those_of_diffusers(name, their):
    betas = DDPMScheduler(beta_schedule=their).betas.double()
    torch.testing.assert_close(Schedule(name, 1000).betas, betas, atol=1e-6, rtol=1e-4)


def test_inversion_is_that_of_diffusers():
    schedule, picture = Schedule("linear", 1000), noise(1, 2, 3, 4, 4)
    their = DDIMInverseScheduler(1000, beta_schedule="linear", clip_sample=False, timestep_spacing="leading")
    their = exact(their, schedule)
    their.set_timesteps(20)
    wanted = theirs(their, picture, in_sigma=False)
    way = path(schedule, 20, "leading")
    close(ours("inversion", schedule, way, picture, "epsilon", rounds=1), wanted)
