"""The networks of a system that draws by diffusion, stage upon stage: tensors in and out."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polytask import runtime
from polytask.diffusion import samplers
from polytask.diffusion.schedule import path as noise_path
from polytask.errors import CheckpointError, ConfigError, TooLong
from polytask.inference.dials import Drawing, expect_usual
from polytask.inference.images import ImageEngine, ImageRequest, Share
from polytask.inference.matching import Matcher
from polytask.interop import networks
from polytask.models.classifier import ClassifierConfig
from polytask.models.clip import CLIP, CLIPConfig
from polytask.models.diffusion import Condition, Diffusion, DiffusionConfig
from polytask.models.prior import SCHEDULE, Prior, PriorConfig, draw_embeddings
from polytask.registry import nearest

GUIDED = 1.5  # towards a picture that is changed (Brooks et al. 2023, section 3.2.1)
NO_CLIP = "This model holds no CLIP to choose by; name the folder of one as clip (--clip)."


@dataclass(frozen=True)
class Known:
    """What stays of a picture: pixels (1, 3, H, W), and mask (1, 1, H, W), True where it is drawn anew."""

    pixels: Tensor
    mask: Tensor

    def at(self, side: int) -> "Known":
        """At another size; a place is drawn anew where any part of it is."""
        if self.pixels.shape[-1] == side:
            return self
        mask = F.adaptive_max_pool2d(self.mask.float(), side) > 0
        return Known(F.interpolate(self.pixels, size=(side, side), mode="area"), mask)


@dataclass(frozen=True)
class Start:
    """The seed of a picture's noise, and, where it is known, the noise (1, 3, S, S) that the first network begins
    with."""

    seed: int
    noise: Tensor | None = None


@dataclass(frozen=True)
class Aim:
    """What pictures are to fit: embeddings (N, E), by the CLIP that made them."""

    matcher: Matcher
    embeddings: Tensor

    def best(self, number: int, pictures: Sequence[Tensor], count: int) -> list[Tensor]:
        """Of pictures (1, 3, S, S) the `count` that fit an embedding best, best first."""
        order, _ = self.matcher.rank(torch.cat(list(pictures)), self.embeddings[number])
        return [pictures[i] for i in order[:count].tolist()]

    def repeated(self, times: int) -> "Aim":
        return Aim(self.matcher, self.embeddings.repeat_interleave(times, 0))


@dataclass
class Painter:
    """A network that draws, with the frozen ones that it needs: Imagen's base, unCLIP's CLIP and prior."""

    folder: networks.NetworkFolder
    network: Diffusion
    clip: CLIP | None = None
    prior: Prior | None = None
    base: "Painter | None" = None
    engine: ImageEngine | Share = field(init=False)

    def __post_init__(self) -> None:
        self.engine = ImageEngine(self.network, max_requests=64)

    @classmethod
    def load(cls, path: str | Path, dtype: str, device: str, check: bool) -> "Painter":
        """Raises CheckpointError, and ConfigError where the folder draws nothing."""
        place = runtime.pick_device(device)
        folder = networks.read(path, check=check)
        if not isinstance(folder.config, DiffusionConfig):
            kinds = {CLIPConfig: "a CLIP", PriorConfig: "a prior", ClassifierConfig: "a classifier"}
            kind = kinds.get(type(folder.config), "an autoencoder")
            role = "it is a part of other systems, named in a recipe by `model`."
            if isinstance(folder.config, ClassifierConfig):
                role = "it says what they show (polytask classify) and judges drawings (polytask eval --judge)."
            raise ConfigError(f"{folder.path} holds {kind}, which alone draws nothing; {role}")
        precision = getattr(torch, runtime.pick_precision(dtype, place))

        def part(name: str) -> Any:
            known = folder.parts.get(name)
            return None if known is None else networks.load(known, dtype=precision, device=place, check=False)

        try:
            expect_usual(folder.about.get("drawing", {}))
        except ConfigError as error:
            raise CheckpointError(f"{folder.path / 'config.json'}: {error}") from None
        network = networks.load(folder.path, dtype=precision, device=place, check=False)
        base = folder.parts.get("base")
        below = None if base is None else cls.load(base, dtype, device, False)
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
    def engines(self) -> list[ImageEngine]:
        """Its own, and those of the networks whose pictures it enlarges."""
        assert isinstance(self.engine, ImageEngine)  # what is shared out is not shared once more
        return [self.engine, *(self.base.engines if self.base else [])]

    def shared(self) -> "tuple[Painter, list[Share]]":
        """See `PictureModel.shared`."""
        one, share = copy(self), Share(self.engines[0])
        one.engine = share
        if self.base is None:
            return one, [share]
        one.base, shares = self.base.shared()
        return one, [share, *shares]

    @property
    def device(self) -> torch.device:
        return self.engine.device

    @property
    def first(self) -> "Painter":
        """What draws before anything is enlarged."""
        return self if self.base is None else self.base.first

    @property
    def told_of_noise(self) -> bool:
        """Whether it, or what it enlarges, is told how noisy the smaller picture is."""
        return self.config.unet.augmentation or (self.base is not None and self.base.told_of_noise)

    @property
    def matcher(self) -> Matcher | None:
        """The CLIP that it holds, where it draws embeddings."""
        first = self.first
        if first.clip is None or first.folder.tokenizer is None:
            return None
        return Matcher(first.clip, first.folder.tokenizer)

    # Drawing; `said` are fields of `Drawing`, of all stages

    def wish(self, said: Mapping[str, Any]) -> Drawing:
        """How this network draws: as is said, else as its own folder says. Raises ConfigError."""
        wish = Drawing.of(said, self.folder.about.get("drawing"))
        noise_path(self.network.schedule, wish.steps, wish.spacing)
        return wish

    def wishes(self, said: Mapping[str, Any]) -> list[Drawing]:
        """Its own, and those of the networks whose pictures it enlarges."""
        return [self.wish(said), *(self.base.wishes(said) if self.base else [])]

    def tries(self, said: Mapping[str, Any]) -> int:
        """How often a picture is enlarged at the most, of which the best is kept."""
        own = len(self.wish(said).levels) if self.config.unet.augmentation else 1
        return max(own, self.base.tries(said) if self.base else 1)

    def draw(
        self, prompts: Sequence[str], said: Mapping[str, Any], known: Known | None = None, aim: Aim | None = None,
        given: Tensor | None = None,
    ) -> list[Tensor]:  # fmt: skip
        """n tensors (1, 3, S, S) for each prompt, one prompt after the other. aim: the prompts' embeddings, where
        levels of augmentation are tried. given (prompts, 3, S, S): what is to be changed, of a model that changes."""
        wish = self.wish(said)
        with torch.inference_mode():
            embedding = None if self.prior is None else self._embeddings(prompts, wish)
            low = None
            if self.config.enlarges:
                below = self._below
                low = below.draw(prompts, said, None if known is None else known.at(below.side), aim)
            if self.config.unet.pooled and not self.labels and embedding is None:
                raise ConfigError(
                    "This model draws an embedding of CLIP and holds no prior; train it with model.prior."
                )
            conditions = [one for one in self._condition(prompts, embedding).each(len(prompts)) for _ in range(wish.n)]
            starts = [Start(wish.seed + i) for i in range(len(conditions))]
            requests = self._requests(conditions, wish, starts, known)
            if given is not None:
                pull = GUIDED if wish.picture_guidance is None else wish.picture_guidance
                before = given.to(self.device).repeat_interleave(wish.n, 0).split(1)
                requests = [replace(one, low=seen, picture_guidance=pull) for one, seen in zip(requests, before)]
            if low is None:
                return self.engine.run(requests)
            return self._enlarged(requests, low, wish, None if aim is None else aim.repeated(wish.n))

    def show(
        self, embeddings: Tensor, said: Mapping[str, Any], starts: Sequence[Start], first: Mapping[str, Any]
    ) -> list[Tensor]:
        """A tensor (1, 3, S, S) for each of the embeddings (N, E) of pictures, without a caption. first: what is said
        to the network that draws, and not to those that enlarge."""
        with torch.inference_mode():
            if self.config.enlarges:
                wish = self.wish(said)
                low = self._below.show(embeddings, said, starts, first)
                nothing = self._condition([""] * len(embeddings), None).none()
                requests = self._requests(nothing.each(len(starts)), wish, [Start(one.seed) for one in starts])
                aim = None if self.matcher is None else Aim(self.matcher, embeddings)
                return self._enlarged(requests, low, wish, aim)
            conditions = self._of(embeddings).each(len(starts))
            return self.engine.run(self._requests(conditions, self.wish({**said, **first}), starts))

    def invert(self, pixels: Tensor, embeddings: Tensor, said: Mapping[str, Any]) -> list[Tensor]:
        """The noise (1, 3, S, S) from which the first network draws, nearly, each of the pictures (N, 3, H, W) by their
        embeddings (N, E), with its steps and guidance."""
        first = self.first
        wish = first.wish(said)
        if pixels.shape[-1] != first.side:
            pixels = F.interpolate(pixels, size=(first.side, first.side), mode="area")
        with torch.inference_mode():
            conditions = first._of(embeddings).each(len(pixels))
        return first.engine.run([
            ImageRequest(
                condition, steps=wish.steps, spacing=wish.spacing, guidance=wish.guidance, inverted=picture
            )
            for condition, picture in zip(conditions, pixels.split(1), strict=True)
        ])  # fmt: skip

    def enlarge(self, low: Tensor, condition: Condition, wish: Drawing) -> list[Tensor]:
        """A tensor (1, 3, S, S) of each of the smaller pictures (B, 3, s, s), which show what `condition` says."""
        with torch.inference_mode():
            starts = [Start(wish.seed + i) for i in range(len(low))]
            requests = self._requests(condition.each(len(low)), wish, starts)
            return self._enlarged(requests, low.to(self.device).split(1), wish, None)

    def condition_of(self, prompts: Sequence[str], pixels: Tensor) -> Condition:
        """As in training: of captions or labels with the pictures (B, 3, S, S) that they are of, whose embedding a
        network is given that draws embeddings. Raises TooLong, ConfigError."""
        with torch.inference_mode():
            embedding = None
            if self.config.unet.pooled and self.clip is not None:
                embedding = self.clip.encode_image(pixels.to(self.device, self.clip.log_scale.dtype))
            return self._condition(prompts, embedding)

    @property
    def _below(self) -> "Painter":
        if self.base is None:
            raise ConfigError("This model enlarges pictures and holds none that draws them; train it with model.base.")
        return self.base

    def _requests(
        self, conditions: Sequence[Condition], wish: Drawing, starts: Sequence[Start], known: Known | None = None
    ) -> list[ImageRequest]:  # fmt: skip
        kept: dict[str, Any] = {} if wish.percentile is None else {"percentile": wish.percentile}
        # What reads neither text nor label has nothing to be led to.
        guidance = wish.guidance if self.config.text is not None or self.config.unet.pooled else 1.0
        if known is not None:
            kept |= {"known": known.at(self.side).pixels, "mask": known.at(self.side).mask}
        return [
            ImageRequest(
                condition, steps=wish.steps, sampler=wish.sampler, spacing=wish.spacing, eta=wish.eta, gamma=wish.gamma,
                guidance=guidance, threshold=wish.threshold, seed=start.seed, noise=start.noise, **kept,
            )
            for condition, start in zip(conditions, starts, strict=True)
        ]  # fmt: skip

    def _enlarged(
        self, requests: Sequence[ImageRequest], low: Sequence[Tensor], wish: Drawing, aim: Aim | None
    ) -> list[Tensor]:
        """Of each request the picture at the level of augmentation that fits best, where several are tried."""
        levels = wish.levels if self.config.unet.augmentation else (0.0,)
        tried = self.engine.run([
            replace(one, low=small, augmentation=level)
            for one, small in zip(requests, low, strict=True)
            for level in levels
        ])  # fmt: skip
        if len(levels) == 1:
            return tried
        if aim is None:
            raise ConfigError(NO_CLIP)
        every = [tried[i : i + len(levels)] for i in range(0, len(tried), len(levels))]
        return [aim.best(number, one, 1)[0] for number, one in enumerate(every)]

    # What is drawn

    @cached_property
    def text_length(self) -> int:
        """Tokens of a caption, its end included."""
        return int(self.folder.about.get("text_length") or 0)

    def fits(self, prompt: str) -> bool:
        """Whether a caption is not too long for `tokens`."""
        tokenizer = self.folder.tokenizer
        return tokenizer is None or len(tokenizer.encode(prompt)) < self.text_length

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
        return ids.to(self.device), mask.to(self.device)

    def _condition(self, prompts: Sequence[str], embedding: Tensor | None) -> Condition:
        if self.labels:
            for prompt in prompts:
                if prompt not in self.labels:
                    raise ConfigError(
                        f"This model draws by label and has no '{prompt}': {nearest(prompt, self.labels)}"
                    )
            numbers = torch.tensor([self.labels.index(prompt) for prompt in prompts], device=self.device)
            return self.network.condition(labels=numbers)
        if self.folder.tokenizer is None:
            return self.network.condition(pooled=embedding)
        ids, mask = self.tokens(prompts)
        return self.network.condition(ids, mask, pooled=embedding)

    def _of(self, embeddings: Tensor) -> Condition:
        """Embeddings (N, E) of pictures without a caption."""
        silent = torch.zeros(len(embeddings), dtype=torch.bool, device=self.device)
        return self._condition([""] * len(embeddings), embeddings).kept(silent, ~silent)

    def _embeddings(self, prompts: Sequence[str], wish: Drawing) -> Tensor:
        """The prior's (B, E), of unit length as CLIP's are."""
        assert self.clip is not None
        assert self.prior is not None
        ids, mask = self.tokens(prompts)
        states, embedding = self.clip.text_states(ids, mask), self.clip.encode_text(ids, mask)

        def draw(denoiser: samplers.Denoiser, noise: Tensor) -> Tensor:
            return samplers.draw(denoiser, noise, SCHEDULE, wish.prior_steps, prediction="x0")

        generator = torch.Generator(self.device).manual_seed(wish.seed)
        found = draw_embeddings(
            self.prior, states, embedding, mask, draw, guidance=wish.prior_guidance, candidates=wish.prior_candidates,
            generator=generator,
        )  # fmt: skip
        return F.normalize(found, dim=-1)
