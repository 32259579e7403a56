"""What a user holds of a system that draws by diffusion: pictures from captions or labels, edits and variations.

model = polytask.load("runs/imagen-blocks")
model.draw("a large red circle left of a small blue square", n=4, seed=7)     # PIL images
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from polytask import runtime
from polytask.diffusion import samplers
from polytask.diffusion.schedule import path as noise_path
from polytask.errors import ConfigError, TaskError, TooLong
from polytask.inference.images import ImageEngine, ImageRequest
from polytask.interop import networks
from polytask.models.built import parameters
from polytask.models.clip import CLIP, CLIPConfig
from polytask.models.diffusion import Condition, Diffusion, DiffusionConfig
from polytask.models.prior import SCHEDULE, Prior, PriorConfig, draw_embeddings
from polytask.registry import nearest
from polytask.tasks.picture import decode, encoded, fitted, to_picture, to_tensor

if TYPE_CHECKING:
    from PIL.Image import Image

MOST = 512  # pictures of one call


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn.

    steps, sampler, guidance, threshold: see `inference.images.ImageRequest`; guidance is of the caption or the label,
    1 being none. prior_steps, prior_guidance, candidates: of unCLIP's prior. augmentation: noise, from 0 to 1, that a
    network which enlarges is told of the smaller picture.
    """

    n: int = 1
    seed: int = 0
    steps: int = 50
    guidance: float = 3.0
    sampler: str = "ddim"
    threshold: str | None = "static"
    prior_steps: int = 64
    prior_guidance: float = 2.0
    candidates: int = 2
    augmentation: float = 0.1

    def __post_init__(self) -> None:
        for name, most in (("n", MOST), ("steps", 100_000), ("prior_steps", SCHEDULE.steps), ("candidates", 64)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ConfigError(f"drawing: {name}={value!r} must be a whole number from 1 to {most:,}.")
        for name, most in (("guidance", 100.0), ("prior_guidance", 100.0), ("augmentation", 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                raise ConfigError(f"drawing: {name}={value!r} must be a number from 0 to {most:g}.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ConfigError(f"drawing: seed={self.seed!r} must be a whole number from 0 on.")
        samplers.SAMPLERS.get(self.sampler)

    @classmethod
    def of(cls, words: Mapping[str, Any]) -> "Drawing":
        """Raises ConfigError for a word that there is not, with the nearest."""
        for name in words:
            if name not in cls.__dataclass_fields__:
                raise ConfigError(f"drawing: there is no '{name}': {nearest(name, cls.__dataclass_fields__)}")
        return cls(**words)


class Stage(NamedTuple):
    """Pictures that an engine is to draw before a plan goes on."""

    engine: ImageEngine
    requests: list[ImageRequest]


Plan = Generator[Stage, list[Tensor], list[Tensor]]
"""How pictures come to be: it yields what is to be drawn, is sent the pictures (1, 3, S, S), and returns the last ones.

So whoever drives it decides what runs together: `fulfilled` a plan alone, a server those of all its clients.
"""


def fulfilled(plan: Plan) -> list[Tensor]:
    """The pictures of a plan, drawn now."""
    try:
        stage = next(plan)
        while True:
            stage = plan.send(stage.engine.run(stage.requests))
    except StopIteration as done:
        return done.value


@dataclass(frozen=True)
class _Known:
    """What stays of a picture: pixels (1, 3, H, W), and mask (1, 1, H, W), True where it is drawn anew."""

    pixels: Tensor
    mask: Tensor

    def at(self, side: int) -> "_Known":
        """At another size; a place is drawn anew where any part of it is."""
        if self.pixels.shape[-1] == side:
            return self
        mask = F.adaptive_max_pool2d(self.mask.float(), side) > 0
        return _Known(F.interpolate(self.pixels, size=(side, side), mode="area"), mask)


@dataclass
class PictureModel:
    """A folder of a drawing system, with the frozen networks in it: Imagen's base, unCLIP's CLIP and prior."""

    folder: networks.NetworkFolder
    network: Diffusion
    clip: CLIP | None = None
    prior: Prior | None = None
    base: "PictureModel | None" = None
    engine: ImageEngine = field(init=False)

    def __post_init__(self) -> None:
        self.engine = ImageEngine(self.network, max_requests=64)

    @classmethod
    def load(
        cls, path: str | Path, *, dtype: str = "float32", device: str = "auto", check: bool = True
    ) -> "PictureModel":  # fmt: skip
        """The model of a folder, or of a run's. Raises CheckpointError, and ConfigError where it draws nothing."""
        place = runtime.pick_device(device)
        folder = networks.read(path, check=check)
        if not isinstance(folder.config, DiffusionConfig):
            kind = {CLIPConfig: "a CLIP", PriorConfig: "a prior"}.get(type(folder.config), "an autoencoder")
            raise ConfigError(
                f"{folder.path} holds {kind}, which alone draws nothing; it is a part of other systems, named in a "
                "recipe by `model`."
            )
        precision = getattr(torch, runtime.pick_precision(dtype, place))

        def part(name: str) -> Any:
            known = folder.parts.get(name)
            return None if known is None else networks.load(known, dtype=precision, device=place, check=False)

        network = networks.load(folder.path, dtype=precision, device=place, check=False)
        base = folder.parts.get("base")
        below = None if base is None else cls.load(base, dtype=dtype, device=device, check=False)
        return cls(folder, network.eval(), part("clip"), part("prior"), below)

    @property
    def config(self) -> DiffusionConfig:
        return self.network.config

    @property
    def side(self) -> int:
        """Of its pictures, in pixels."""
        return self.config.unet.pixels

    @property
    def labels(self) -> list[str]:
        """What it draws by, where it reads no captions."""
        return list(self.folder.about.get("labels", ()))

    @property
    def info(self) -> dict[str, Any]:
        return {"parameters": parameters(self.config), "pixels": self.side, **self.folder.about}

    @property
    def engines(self) -> list[ImageEngine]:
        """Its own, and those of the models below it that it enlarges the pictures of."""
        return [self.engine, *(self.base.engines if self.base else [])]

    # What a user asks

    def draw(self, prompt: str, n: int = 1, seed: int = 0, **dials: Any) -> "list[Image]":
        """n pictures of a caption, or of a label; `dials` are more fields of `Drawing`.

        Raises TooLong for a caption beyond the text window, ConfigError for dials out of range and unknown labels, and
        SamplingError where a step gives no picture.
        """
        return self.draw_many([prompt], **{"n": n, "seed": seed, **dials})[0]

    def draw_many(self, prompts: Sequence[str], **dials: Any) -> "list[list[Image]]":
        """The same for many captions in the same passes; their pictures have the noise of seed, seed + 1, ..."""
        wish = Drawing.of(dials)
        return self._shown(fulfilled(self.drawing(prompts, wish)), wish.n)

    def edit(
        self, picture: Any, prompt: str, mask: Any = None, *, resize: bool = False, n: int = 1, seed: int = 0,
        **dials: Any,
    ) -> "list[Image]":  # fmt: skip
        """Pictures that are as `picture` where the mask is black, and drawn anew where it is white, so that the whole
        fits `prompt`. resize: pictures and masks of other sizes are fitted.

        Raises TaskError without a mask, or where a size differs and `resize` is not said.
        """
        wish = Drawing.of({"n": n, "seed": seed, **dials})
        return self._shown(fulfilled(self.editing(picture, prompt, mask, wish, resize)), n)[0]

    def variations(
        self, picture: Any, n: int = 1, seed: int = 0, *, resize: bool = True, **dials: Any
    ) -> "list[Image]":
        """Pictures of the embedding that CLIP has of `picture` (Ramesh et al. 2022, section 3.1, with fresh noise).

        Raises TaskError where the model draws no embeddings.
        """
        wish = Drawing.of({"n": n, "seed": seed, **dials})
        return self._shown(fulfilled(self.varying(picture, wish, resize)), n)[0]

    # The same as plans: a mistake is raised at once, and nothing is drawn yet

    def drawing(self, prompts: Sequence[str], wish: Drawing) -> Plan:
        """wish.n pictures of each caption, one caption after the other; raises as `draw`."""
        self._check(prompts, wish)
        return self._stages(prompts, wish, None)

    def editing(self, picture: Any, prompt: str, mask: Any, wish: Drawing, resize: bool = False) -> Plan:
        """wish.n pictures; raises as `edit`."""
        if mask is None:
            raise TaskError(
                "This model edits where a mask says: give one, white where the picture is to be drawn anew."
            )
        pixels = self._given(picture, resize, "picture")
        chosen = self._given(mask, resize, "mask").mean(1, keepdim=True) > 0
        if not chosen.any():
            raise TaskError("The mask is black everywhere, so nothing would be drawn anew; paint a part of it white.")
        self._check([prompt], wish)
        return self._stages([prompt], wish, _Known(pixels, chosen))

    def varying(self, picture: Any, wish: Drawing, resize: bool = True) -> Plan:
        """wish.n pictures; raises as `variations`."""
        if self.clip is None:
            raise TaskError("Variations need a model that draws CLIP's embeddings, such as one of system dalle2.")
        noise_path(self.network.schedule, wish.steps)
        return self._varied(self._given(picture, resize, "picture"), wish)

    # How it is drawn

    @property
    def _device(self) -> torch.device:
        return self.engine.device

    def _shown(self, pixels: list[Tensor], n: int) -> "list[list[Image]]":
        pictures = [to_picture(one[0]) for one in pixels]
        return [pictures[i : i + n] for i in range(0, len(pictures), n)]

    def _given(self, picture: Any, resize: bool, what: str) -> Tensor:
        """(1, 3, S, S) of a picture or mask that a user gave."""
        image = decode(encoded(picture))
        if image.size != (self.side, self.side) and not resize:
            raise TaskError(
                f"The {what} has {image.width} x {image.height} pixels and the model draws {self.side} x {self.side}; "
                "say that it may be resized (resize=True, --resize), or give one of that size."
            )
        return to_tensor(fitted(image, self.side))[None]

    def _check(self, prompts: Sequence[str], wish: Drawing) -> None:
        """Raises what a plan of these prompts would run into."""
        noise_path(self.network.schedule, wish.steps)
        if self.config.low_pixels:
            if self.base is None:
                raise ConfigError(
                    "This model enlarges pictures and holds none that draws them; train it with model.base."
                )
            self.base._check(prompts, wish)
        if self.config.unet.pooled and not self.labels and self.prior is None:
            raise ConfigError("This model draws an embedding of CLIP and holds no prior; train it with model.prior.")
        if not self.labels:
            self.tokens(prompts)
        elif unknown := [prompt for prompt in prompts if prompt not in self.labels]:
            raise ConfigError(
                f"This model draws by label and has no '{unknown[0]}': {nearest(unknown[0], self.labels)}"
            )

    def _stages(self, prompts: Sequence[str], wish: Drawing, known: _Known | None) -> Plan:
        low = None
        if self.base is not None:
            low = yield from self.base._stages(prompts, wish, None if known is None else known.at(self.base.side))
        return (yield self._stage(self._conditions(prompts, wish), wish, low, known))

    def _varied(self, pixels: Tensor, wish: Drawing) -> Plan:
        return (yield self._stage([self._seen(pixels)], wish, None, None))

    def _stage(
        self, conditions: list[Condition], wish: Drawing, low: list[Tensor] | None, known: _Known | None
    ) -> Stage:
        kept: dict[str, Any] = (
            {} if known is None else {"known": known.at(self.side).pixels, "mask": known.at(self.side).mask}
        )
        requests = [
            ImageRequest(
                condition, steps=wish.steps, sampler=wish.sampler, guidance=wish.guidance, threshold=wish.threshold,
                seed=wish.seed + number * wish.n + i, **kept,
            )
            for number, condition in enumerate(conditions)
            for i in range(wish.n)
        ]  # fmt: skip
        if low is not None:
            level = wish.augmentation if self.config.unet.augmentation else 0.0
            requests = [replace(one, low=small, augmentation=level) for one, small in zip(requests, low, strict=True)]
        return Stage(self.engine, requests)

    @torch.inference_mode()
    def _conditions(self, prompts: Sequence[str], wish: Drawing) -> list[Condition]:
        embedding = None if self.prior is None else self._embeddings(prompts, wish)
        every = self._condition(prompts, embedding)
        return [every.rows(torch.tensor([i], device=self._device)) for i in range(len(prompts))]

    @torch.inference_mode()
    def _seen(self, pixels: Tensor) -> Condition:
        """What CLIP sees in a picture, without a text."""
        assert self.clip is not None
        silent, seen = torch.tensor([False], device=self._device), torch.tensor([True], device=self._device)
        return self._condition([""], self.clip.encode_image(pixels.to(self._device))).kept(silent, seen)

    @cached_property
    def text_length(self) -> int:
        """Tokens of a caption, its end included."""
        return int(self.folder.about.get("text_length") or 0)

    def tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """ids (B, L) and mask (B, L) of captions, as in training. Raises TooLong."""
        tokenizer = self.folder.tokenizer
        assert tokenizer is not None
        ids = torch.full((len(prompts), self.text_length), tokenizer.special["<|pad|>"])
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for row, found in enumerate(tokenizer.encode_lists(list(prompts))):
            if len(found) >= self.text_length:
                raise TooLong(
                    f"The prompt has {len(found)} tokens, but this model reads {self.text_length - 1}; shorten it."
                )
            whole = [*found, tokenizer.special["<|end|>"]]
            ids[row, : len(whole)], mask[row, : len(whole)] = torch.tensor(whole), True
        return ids.to(self._device), mask.to(self._device)

    def _condition(self, prompts: Sequence[str], embedding: Tensor | None) -> Condition:
        if self.labels:
            numbers = torch.tensor([self.labels.index(prompt) for prompt in prompts], device=self._device)
            return self.network.condition(labels=numbers)
        ids, mask = self.tokens(prompts)
        return self.network.condition(ids, mask, pooled=embedding)

    def _embeddings(self, prompts: Sequence[str], wish: Drawing) -> Tensor:
        """The prior's (B, E), of unit length as CLIP's are."""
        assert self.clip is not None
        assert self.prior is not None
        ids, mask = self.tokens(prompts)
        states, embedding = self.clip.text_states(ids, mask), self.clip.encode_text(ids, mask)

        def draw(denoiser: samplers.Denoiser, noise: Tensor) -> Tensor:
            return samplers.draw(denoiser, noise, SCHEDULE, wish.prior_steps, prediction="x0")

        generator = torch.Generator(self._device).manual_seed(wish.seed)
        found = draw_embeddings(
            self.prior, states, embedding, mask, draw, guidance=wish.prior_guidance, candidates=wish.candidates,
            generator=generator,
        )  # fmt: skip
        return F.normalize(found, dim=-1)
