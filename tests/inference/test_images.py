"""Pictures drawn together: what each alone would be, whatever its sampler, and one sentence for every mistake."""

import dataclasses
import threading

import pytest
import torch

from polytask.diffusion.samplers import SAMPLERS, ddim, ddim_inversion, draw, estimate
from polytask.diffusion.schedule import path
from polytask.errors import ConfigError, SamplingError
from polytask.inference.images import ImageEngine, ImageRequest
from polytask.models.diffusion import Condition, Diffusion, DiffusionConfig
from polytask.models.unet import UNetConfig
from polytask.registry import Registry

UNET = UNetConfig(pixels=8, channels=16, multipliers=(1, 2), blocks=1, attention=(4,), groups=8, head_dim=16, text=12)


def filled(**words):
    changes = {name: words.pop(name) for name in list(words) if hasattr(UNET, name)}
    model = Diffusion(DiffusionConfig(dataclasses.replace(UNET, **changes), steps=100, **words)).initialize(0).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.unet.last.parameters():
            parameter.normal_(std=0.05, generator=generator)
        for name, parameter in model.unet.named_parameters():
            if name.endswith((".outer.weight", ".attention.output.weight")):
                parameter.normal_(std=0.05, generator=generator)
    return model


MODEL = filled()


def text(seed, length=3):
    return Condition(states=torch.randn(1, length, 12, generator=torch.Generator().manual_seed(seed)))


REQUESTS = [
    ImageRequest(text(0), steps=5, seed=1, guidance=3.0, threshold="dynamic"),
    ImageRequest(text(1, 5), steps=7, seed=2, sampler="ddpm"),
    ImageRequest(text(2, 1), steps=4, seed=3, sampler="heun", guidance=2.0),
    ImageRequest(text(3), steps=9, seed=4, sampler="dpm_solver", spacing="leading"),
    ImageRequest(text(4), steps=6, seed=5, sampler="euler", spacing="karras", threshold="none"),
    ImageRequest(text(5), steps=6, seed=6, pixels=(16, 8), eta=0.5),
]


def test_guidance_towards_a_picture_changes_that_request_alone():
    engine = ImageEngine(filled(low=True, low_pixels=8))
    low = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(9)).clamp(-1, 1)
    plain = ImageRequest(text(0), steps=3, low=low, guidance=2.0)
    led = dataclasses.replace(plain, picture_guidance=3.0)
    first, second = engine.run([plain, led])
    torch.testing.assert_close(first, engine.run([plain])[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(second, engine.run([led])[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(first, second, atol=1e-2)


def test_together_is_as_alone():
    alone = [ImageEngine(MODEL).run([request])[0] for request in REQUESTS]
    for most in (2, 16):
        together = ImageEngine(MODEL, max_requests=most).run(REQUESTS)
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert alone[5].shape == (1, 3, 16, 8)
    assert all(float(picture.abs().max()) <= 1 for picture in alone)


def test_one_request_is_what_a_plain_loop_draws():
    request = REQUESTS[0]
    condition, weight = request.condition, torch.tensor([3.0])
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    from polytask.diffusion.guidance import dynamic

    with torch.no_grad():
        wanted = draw(lambda x, t: MODEL.guided(x, t, condition, weight), noise, MODEL.schedule, 5, threshold=dynamic)
    torch.testing.assert_close(ImageEngine(MODEL).run([request])[0], wanted.clamp(-1, 1))


def test_requests_join_while_others_run():
    passes = []
    engine = ImageEngine(MODEL)
    hook = MODEL.unet.register_forward_hook(lambda module, given, output: passes.append(len(output)))
    first = engine.submit(ImageRequest(text(0), steps=4))
    engine.step()
    second = engine.submit(ImageRequest(text(1), steps=4))
    second.result()
    hook.remove()
    assert first.done
    assert passes == [1, 2, 2, 2, 1]
    assert (first.done_steps, first.request.steps) == (4, 4)


def test_threads_may_wait_at_once():
    engine, found = ImageEngine(MODEL), {}
    handles = [engine.submit(request) for request in REQUESTS]
    threads = [threading.Thread(target=lambda i=i: found.update({i: handles[i].result()})) for i in range(len(handles))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert sorted(found) == list(range(len(REQUESTS)))


def test_what_is_known_stays():
    known = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    for sampler in SAMPLERS:
        picture = ImageEngine(MODEL).run([ImageRequest(text(0), steps=5, sampler=sampler, known=known, mask=mask)])[0]
        torch.testing.assert_close(picture[..., :4], known[..., :4], atol=1e-4, rtol=0)
        assert not torch.allclose(picture[..., 4:], known[..., 4:], atol=0.1)


def test_a_smaller_picture_is_enlarged_and_estimates_are_seen_again():
    model = filled(low=True, augmentation=True, self_conditioning=True, learned_variance=True, low_pixels=4)
    low = torch.zeros(1, 3, 4, 4)
    given = []
    hook = model.unet.register_forward_hook(lambda module, inputs, output: given.append(inputs))
    words = {"steps": 3, "low": low, "sampler": "ddpm"}
    ImageEngine(model).run([ImageRequest(text(0), augmentation=0.5, **words), ImageRequest(text(1), **words)])
    hook.remove()
    *_, lows, levels, first = given[0]
    assert levels.tolist() == [0.5, 0.0]
    assert float(lows[0].std()) == pytest.approx(0.7, abs=0.2)
    assert float(lows[1].abs().max()) == 0
    assert float(first.abs().max()) == 0
    assert float(given[1][-1].abs().max()) > 0


def test_inversion_finds_the_noise():
    schedule, picture = MODEL.schedule, torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5

    def follow(sampling):
        query = next(sampling)
        try:
            while True:
                kept = query.now.alpha_bar  # the best denoiser of data N(0, 0.25)
                x0 = kept**0.5 * 0.25 / (kept * 0.25 + 1 - kept) * query.x
                query = sampling.send(estimate("x0", x0, query.x, query.now))
        except StopIteration as done:
            return done.value

    way = path(schedule, 100)
    for rounds, near in ((1, 0.03), (2, 0.003)):
        noise = follow(ddim_inversion(way, picture, rounds=rounds))
        torch.testing.assert_close(follow(ddim(way, noise)), picture, atol=near, rtol=near)


def test_a_picture_comes_back_from_the_noise_that_the_engine_finds():
    model = filled(prediction="v")
    picture = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    words = {"steps": 50, "guidance": 2.0}
    (noise,) = ImageEngine(model).run([ImageRequest(text(0), inverted=picture, **words)])
    assert float(noise.abs().max()) > 1  # noise is not cut off
    (again,) = ImageEngine(model).run([ImageRequest(text(0), noise=noise, threshold="none", **words)])
    assert float((again - picture).abs().mean()) < 0.03
    (other,) = ImageEngine(model).run([ImageRequest(text(1), noise=noise, threshold="none", **words)])
    assert float((other - picture).abs().mean()) > 0.05


def test_a_network_that_says_nothing_sound_ends_its_own_request():
    model = filled()
    engine = ImageEngine(model)
    good = engine.submit(ImageRequest(text(0), steps=4))
    bad = engine.submit(ImageRequest(text(0).__class__(states=torch.full((1, 3, 12), torch.nan)), steps=4))
    with pytest.raises(SamplingError, match="step 1 of 4"):
        bad.result()
    assert good.result().isfinite().all()


def test_a_request_that_cannot_begin_ends_alone(monkeypatch):
    """Whoever waits for it is told, even where another thread's step began it."""

    def full(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("polytask.inference.images.SAMPLERS", Registry("sampler", {"ddim": ddim, "euler": full}))
    engine, found = ImageEngine(MODEL), {}
    handles = [engine.submit(ImageRequest(text(0), steps=4, sampler=name)) for name in ("euler", "ddim")]

    def wait(number):
        try:
            found[number] = handles[number].result()
        except RuntimeError as error:
            found[number] = str(error)

    threads = [threading.Thread(target=wait, args=[number], daemon=True) for number in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found[0] == "out of memory"
    assert found[1].isfinite().all()
    assert not engine.busy


def test_a_cancelled_request_is_gone():
    engine = ImageEngine(MODEL)
    handle = engine.submit(ImageRequest(text(0), steps=4))
    engine.step()
    handle.cancel()
    assert not engine.busy
    with pytest.raises(ConfigError, match="cancelled"):
        handle.result()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"steps": 0}, "from 1 to 100"),
        ({"steps": 101}, "from 1 to 100"),
        ({"sampler": "eular"}, "did you mean 'euler'"),
        ({"spacing": "trailin"}, "did you mean 'trailing'"),
        ({"guidance": -1.0}, "guidance=-1.0 must be a number from 0 to 100"),
        ({"guidance": float("nan")}, "guidance=nan"),
        ({"threshold": "dynamical"}, "did you mean 'dynamic'"),
        ({"threshold": "dynamic", "percentile": 1.5}, "percentile=1.5"),
        ({"pixels": (9, 8)}, "multiples of 2"),
        ({"pixels": (0, 8)}, "multiples of 2"),
        ({"known": torch.zeros(1, 3, 8, 8)}, "needs a mask"),
        ({"known": torch.zeros(1, 3, 8, 8), "mask": torch.zeros(1, 1, 4, 4)}, "resize it first"),
        ({"low": torch.zeros(1, 3, 4, 4)}, "only such a model"),
        ({"picture_guidance": 1.5}, "towards a picture that is given"),
    ],
)
def test_mistakes_are_named(words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ImageEngine(MODEL).submit(ImageRequest(text(0), **words))
