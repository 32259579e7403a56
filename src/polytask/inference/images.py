"""Pictures of many requests at once: each goes its own way through the noise, and every step runs the network once for
all of them, whatever their samplers, their numbers of steps and where they are."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from polytask.diffusion.guidance import augmented, thresholding
from polytask.diffusion.process import clean
from polytask.diffusion.samplers import SAMPLERS, Estimate, Query, Sampling, check, ddim_inversion
from polytask.diffusion.schedule import path
from polytask.errors import ConfigError
from polytask.inference.handle import answers_of
from polytask.models.diffusion import Condition, Diffusion, together


@dataclass(frozen=True, eq=False)
class ImageRequest:
    """One picture to draw.

    condition: of one row. pixels: height and width; None is what the network was made for. steps, sampler, spacing, eta
    and gamma: see `diffusion`. guidance: 1 is none. threshold: "static", "dynamic" with its percentile, or "none".
    seed: of all noise; the same gives the same picture, whoever else is drawn. noise (1, 3, H, W): to begin with, in
    place of the seed's. inverted (1, 3, H, W): a picture, of which the noise comes back from which DDIM draws it,
    whatever the sampler; estimates are taken as they are. low (1, 3, h, w): the picture that is enlarged, with noise of
    `augmentation` from 0 to 1; picture_guidance: away from what would be drawn without it, 1 is none. known
    (1, 3, H, W): a picture that stays where `mask` (1, 1, H, W) is False; estimates are replaced there (Wang et al.
    2022, "DDNM", section 3.1).
    """

    condition: Condition
    pixels: tuple[int, int] | None = None
    steps: int = 50
    sampler: str = "ddim"
    spacing: str = "trailing"
    eta: float | None = None
    gamma: float | None = None
    guidance: float = 1.0
    picture_guidance: float = 1.0
    threshold: str = "static"
    percentile: float = 0.995
    seed: int = 0
    noise: Tensor | None = None
    inverted: Tensor | None = None
    low: Tensor | None = None
    augmentation: float = 0.0
    known: Tensor | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        for name, most in (
            ("guidance", 100.0), ("picture_guidance", 100.0), ("eta", 1.0), ("gamma", 1.0), ("augmentation", 1.0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 <= value <= most):
                raise ConfigError(f"drawing: {name}={value!r} must be a number from 0 to {most:g}")
        thresholding(self.threshold, self.percentile)
        SAMPLERS.get(self.sampler)
        if self.picture_guidance != 1 and self.low is None:
            raise ConfigError(
                "drawing: picture_guidance leads towards a picture that is given; give one, or leave it 1."
            )
        if (self.known is None) != (self.mask is None):
            raise ConfigError("drawing: a known picture needs a mask of what to draw anew, and a mask a picture")

    @property
    def words(self) -> dict[str, float]:
        """What is said to the sampler."""
        return {name: value for name in ("eta", "gamma") if (value := getattr(self, name)) is not None}


@dataclass(eq=False)
class ImageHandle:
    """A picture under way: wait for it, see how far it is, or cancel it. Whoever waits runs the engine's steps."""

    request: ImageRequest
    _step: Callable[[], object]
    _withdraw: Callable[["ImageHandle"], None]
    done_steps: int = 0
    preview: Tensor | None = None  # the last estimate (1, 3, H, W)
    picture: Tensor | None = None
    error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.picture is not None or self.error is not None

    def result(self) -> Tensor:
        """The picture (1, 3, H, W) in [-1, 1], or noise. Raises what ended the request."""
        while not self.done:
            self._step()
        if self.error is not None:
            raise self.error
        assert self.picture is not None
        return self.picture

    def cancel(self) -> None:
        """Ends the request; `result` then raises ConfigError."""
        self._withdraw(self)


@dataclass(eq=False)
class _Way:
    """A request that runs: its sampler and what that asks next."""

    handle: ImageHandle
    sampling: Sampling
    query: Query
    low: Tensor | None
    guess: Tensor | None = None
    finish: Callable[[Tensor], Tensor] = field(default=lambda x0: x0)

    @property
    def alike(self) -> tuple:
        """Requests of which this is the same run in one pass."""
        condition = self.handle.request.condition
        kinds = condition.states is None, condition.pooled is None
        return self.query.x.shape, None if self.low is None else self.low.shape, kinds


@dataclass(frozen=True)
class Stats:
    """How many requests an engine has at a moment."""

    waiting: int
    running: int


class ImageEngine:
    """Draws many pictures with one network; at most `max_requests` run at once, the others wait their turn."""

    def __init__(self, model: Diffusion, max_requests: int = 16):
        self.model, self.max_requests = model.eval(), max_requests
        self.device = next(model.parameters()).device
        self._lock, self._waiting, self._running = threading.RLock(), deque[ImageHandle](), list[_Way]()

    def submit(self, request: ImageRequest) -> ImageHandle:
        """Queues a request. Raises ConfigError where it can never be drawn."""
        path(self.model.schedule, request.steps, request.spacing)
        self._check(request)
        handle = ImageHandle(request, self.step, self.cancel)
        self._waiting.append(handle)
        return handle

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        stats = self.stats()
        return bool(stats.waiting or stats.running)

    def stats(self) -> Stats:
        """What it has to do at this moment."""
        waiting, running = list(self._waiting), list(self._running)
        return Stats(sum(not handle.done for handle in waiting), sum(not way.handle.done for way in running))

    def run(self, requests: Sequence[ImageRequest]) -> list[Tensor]:
        """The picture of each request, in order."""
        return answers_of(self.submit, requests)

    def cancel(self, handle: ImageHandle) -> None:
        """Ends a request, wherever it is, without waiting for a step under way; nothing happens where it has already
        ended."""
        if not handle.done:
            handle.error = ConfigError("The drawing was cancelled.")

    @torch.inference_mode()
    def step(self) -> list[ImageHandle]:
        """One pass for all that runs; those that ended with it. An error ends the request that cannot
        begin, or those of its pass, alone."""
        with self._lock:
            self._running = [way for way in self._running if not way.handle.done]
            failed = self._admit()
            groups: dict[tuple, list[_Way]] = {}
            for way in self._running:
                groups.setdefault(way.alike, []).append(way)
            for group in groups.values():
                try:
                    self._advance(group)
                except Exception as error:
                    for way in group:
                        way.handle.error = way.handle.error or error
            ended = [way.handle for way in self._running if way.handle.done]
            self._running = [way for way in self._running if not way.handle.done]
            return failed + ended

    def _admit(self) -> list[ImageHandle]:
        """Lets those that wait begin while there is room. The handles of those that could not, which end so."""
        failed = []
        while self._waiting and len(self._running) < self.max_requests:
            if (handle := self._waiting.popleft()).done:
                continue
            try:
                self._running.append(self._begin(handle))
            except Exception as error:
                handle.error = handle.error or error
                failed.append(handle)
        return failed

    def _size(self, request: ImageRequest) -> tuple[int, int]:
        side = self.model.config.unet.pixels
        return request.pixels or (side, side)

    def _check(self, request: ImageRequest) -> None:
        height, width = self._size(request)
        stride = self.model.config.unet.stride
        if min(height, width) < 1 or height % stride or width % stride:
            raise ConfigError(
                f"drawing: {width} x {height} pixels; this model draws sides that are multiples of {stride}."
            )
        for name, tensor, channels in (
            ("known", request.known, 3), ("mask", request.mask, 1), ("noise", request.noise, 3),
            ("inverted", request.inverted, 3),
        ):  # fmt: skip
            if tensor is not None and tuple(tensor.shape) != (1, channels, height, width):
                raise ConfigError(
                    f"drawing: {name} has the shape {tuple(tensor.shape)}, but the picture is {width} x {height}; "
                    "resize it first."
                )
        if (request.low is not None) != self.model.config.unet.low:
            raise ConfigError(
                "drawing: a model that enlarges needs the smaller picture, and only such a model takes one."
            )

    def _begin(self, handle: ImageHandle) -> _Way:
        """Noise, on the CPU and so the same everywhere, and the sampler's first question."""
        request = handle.request
        generator = torch.Generator().manual_seed(request.seed)
        noise = torch.randn(1, 3, *self._size(request), generator=generator)
        x = (noise if request.noise is None else request.noise).to(self.device)
        low = request.low
        if low is not None:
            drawn = torch.randn(low.shape, generator=generator)
            low = augmented(low.cpu(), torch.tensor([request.augmentation]), drawn).to(self.device)
        way = path(self.model.schedule, request.steps, request.spacing)
        if request.inverted is not None:
            sampling = ddim_inversion(way, request.inverted.to(self.device))
        else:
            sampling = SAMPLERS.get(request.sampler)(way, x, generator, **request.words)
        return _Way(handle, sampling, next(sampling), low, finish=self._finish(request))

    def _finish(self, request: ImageRequest) -> Callable[[Tensor], Tensor]:
        """What is done to every estimate: thresholding, and what is known of the picture."""
        threshold = thresholding("none" if request.inverted is not None else request.threshold, request.percentile)
        if request.known is None or request.mask is None:
            return threshold
        known, mask = request.known.to(self.device), request.mask.to(self.device).bool()
        return lambda x0: torch.where(mask, threshold(x0), known)

    def _advance(self, group: list[_Way]) -> None:
        model, kind = self.model, self.model.config.prediction
        requests = [way.handle.request for way in group]
        x = torch.cat([way.query.x for way in group])
        t = torch.tensor([way.query.now.t for way in group], device=self.device)
        low = torch.cat([way.low for way in group if way.low is not None]) if group[0].low is not None else None
        level = torch.tensor([request.augmentation for request in requests], device=self.device)
        guess = None
        if model.config.unet.self_conditioning:
            guess = torch.cat([torch.zeros_like(way.query.x) if way.guess is None else way.guess for way in group])
        guidance = torch.tensor([float(request.guidance) for request in requests], device=self.device)
        away = torch.tensor([float(request.picture_guidance) for request in requests], device=self.device)
        condition = together([request.condition for request in requests])
        output = model.guided(x, t, condition, guidance, low, level, guess, away).float()
        for way, said in zip(group, output.split(1), strict=True):
            now, variance = way.query.now, said[:, 3:] if said.shape[1] > 3 else None
            try:
                x0 = clean(kind, said[:, :3], way.query.x, now.alpha_bar)
                check(x0, way.query.number, way.handle.request.steps)
                self._send(way, Estimate(way.finish(x0), variance))
            except Exception as error:
                way.handle.error = error

    def _send(self, way: _Way, estimate: Estimate) -> None:
        handle = way.handle
        way.guess, handle.preview = estimate.x0.clamp(-1, 1), estimate.x0
        try:
            way.query = way.sampling.send(estimate)
            handle.done_steps = way.query.number - 1
        except StopIteration as done:
            noise = handle.request.inverted is not None
            handle.done_steps, handle.picture = handle.request.steps, done.value if noise else done.value.clamp(-1, 1)


class Share:
    """An engine as one of several users has it: `run` in a thread of that user's, with the passes of all, and `end` in
    any other."""

    def __init__(self, engine: ImageEngine):
        self.engine, self.device = engine, engine.device
        self._handles, self._ended = list[ImageHandle](), False

    def run(self, requests: Sequence[ImageRequest]) -> list[Tensor]:
        """As the engine's. Raises ConfigError once it was ended."""
        return answers_of(self._submit, requests)

    def end(self) -> None:
        """Cancels what it runs, and what it would be asked to run yet."""
        self._ended = True
        for handle in list(self._handles):
            handle.cancel()

    def _submit(self, request: ImageRequest) -> ImageHandle:
        handle = self.engine.submit(request)
        self._handles.append(handle)
        if self._ended:
            handle.cancel()
        return handle
