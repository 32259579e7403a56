"""How pictures are drawn by diffusion, and what of, as a user says it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polytask.diffusion import samplers
from polytask.diffusion.guidance import THRESHOLDS
from polytask.diffusion.schedule import SPACINGS
from polytask.errors import ConfigError, TaskError
from polytask.models.prior import SCHEDULE
from polytask.registry import expect_known, nearest

MOST = 512  # pictures of one call
SEARCHED = (0.0, 0.1, 0.2, 0.3)  # levels of augmentation; in training they were spread from 0 to 1
NOISY = ("ddpm", "ddim")  # samplers that add noise on the way, as much as eta says
OF_A_CALL = ("n", "seed")  # what no recipe says
PRIOR = ("prior_steps", "prior_guidance", "prior_candidates")
# What is chosen for a sampler or a threshold, and for no other.
TOGETHER = {"sampler": ("steps", "spacing", "eta", "gamma"), "threshold": ("percentile",)}


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn.

    steps, sampler, spacing, eta, gamma, guidance, threshold, percentile: see `inference.images.ImageRequest`; guidance
    is of the caption or the label, 1 being none; picture_guidance of the picture that an instruction changes, 1 being
    none, 1.5 (Brooks et al. 2023) unless said. prior_steps, prior_guidance, prior_candidates: of unCLIP's prior.

    augmentation: noise, from 0 to 1, that a network which enlarges is told of the smaller picture and that is put into
    it; or several levels, in a list or as "0,0.1", or "search" for `SEARCHED`, of which every picture gets the best by
    a CLIP. Published (Saharia et al. 2022, section 2.4): levels are tried when drawing, and sample quality over a whole
    set of captions says which to keep. Ours: each picture is drawn at every level, and its own score by CLIP decides.
    """

    n: int = 1
    seed: int = 0
    steps: int = 50
    guidance: float = 3.0
    picture_guidance: float | None = None
    sampler: str = "ddim"
    spacing: str = "trailing"
    eta: float | None = None
    gamma: float | None = None
    threshold: str = "static"
    percentile: float | None = None
    prior_steps: int = 64
    prior_guidance: float = 2.0
    prior_candidates: int = 2
    augmentation: float | str | Sequence[float] = 0.1

    def __post_init__(self) -> None:
        for name, most in (("n", MOST), ("steps", 100_000), ("prior_steps", SCHEDULE.steps), ("prior_candidates", 64)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ConfigError(f"drawing: {name}={value!r} must be a whole number from 1 to {most:,}.", name)
        for name in ("guidance", "picture_guidance", "prior_guidance"):
            if name != "picture_guidance" or self.picture_guidance is not None:
                expect_number(name, getattr(self, name), 100.0)
        for level in self.levels:
            expect_number("augmentation", level, 1.0)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ConfigError(f"drawing: seed={self.seed!r} must be a whole number from 0 to {2**63 - 1:,}.", "seed")
        self._expect_way()
        self._expect_threshold()

    def _expect_way(self) -> None:
        """What is said of the way from noise to a picture."""
        for name, known in (("sampler", samplers.SAMPLERS), ("spacing", SPACINGS)):
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"drawing: there is no {name} '{value}': {nearest(str(value), known)}", name)
        if self.eta is not None:
            expect_number("eta", self.eta, 1.0)
            if self.sampler not in NOISY:
                why = f"{self.sampler} adds no noise on the way; eta is of {' and '.join(NOISY)}"
                raise ConfigError(f"drawing: {why}.", "eta")
        if self.gamma is not None:
            expect_number("gamma", self.gamma, 1.0)
            if self.sampler != "ddpm":
                raise ConfigError(f"drawing: gamma is of ddpm, and this is {self.sampler}; leave it out.", "gamma")

    def _expect_threshold(self) -> None:
        if self.threshold not in THRESHOLDS:
            raise ConfigError(
                f"drawing: there is no threshold '{self.threshold}': {nearest(str(self.threshold), THRESHOLDS)}",
                "threshold",
            )
        if self.percentile is not None:
            expect_number("percentile", self.percentile, 1.0)
            if self.threshold != "dynamic":
                raise ConfigError(
                    "drawing: percentile is of the dynamic threshold; say so, or leave it out.", "percentile"
                )
            if self.percentile == 0:
                raise ConfigError("drawing: percentile=0 must be above 0, such as 0.995.", "percentile")

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels of augmentation to be tried. Raises ConfigError where there are none."""
        said = self.augmentation
        if isinstance(said, str):
            try:
                return SEARCHED if said == "search" else tuple(map(float, said.split(",")))
            except ValueError:
                said = ()
        if isinstance(said, Sequence) and not said:
            text = f"augmentation={self.augmentation!r} must be a number from 0 to 1, several of them, or 'search'"
            raise ConfigError(f"drawing: {text}.", "augmentation")
        return tuple(said) if isinstance(said, Sequence) else (said,)

    @classmethod
    def of(cls, said: Mapping[str, Any], usual: Mapping[str, Any] | None = None) -> "Drawing":
        """usual: a model's own dials, where they go with what is said. Raises ConfigError for a word that there is not,
        with the nearest."""
        expect_known("drawing", said, cls.__dataclass_fields__)
        return cls(**{**_holding(usual or {}, said), **said})


def _holding(usual: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Of a model's dials those that go with what is said: none of those that were chosen together with a sampler or a
    threshold where it is another now, as it is where eta is said and the model's sampler has none."""
    gone: set[str] = set()
    for name, others in TOGETHER.items():
        own = usual.get(name, getattr(Drawing, name))
        unlike = name == "sampler" and name not in said and said.get("eta") is not None and own not in NOISY
        if unlike or said.get(name, own) != own:
            gone |= {name, *others}
    return {name: value for name, value in usual.items() if name not in gone}


def expect_usual(dials: Mapping[str, Any]) -> None:
    """Raises ConfigError where these can be no model's own dials."""
    for name in OF_A_CALL:
        if name in dials:
            raise ConfigError(f"drawing: {name} is said when a picture is asked for; leave it out.", name)
    Drawing.of(dials)


def expect_fitting(dials: Mapping[str, Any], *, changes: bool, told: bool, prior: bool) -> None:
    """Raises ConfigError for dials of other kinds of models. changes: whether a model changes pictures as it is told;
    told: whether it enlarges them and is told of their noise; prior: whether it has one."""
    kinds = {"picture_guidance": (changes, "a model that changes pictures as an instruction says")}
    kinds |= {"augmentation": (told, "a model that enlarges, told of noise")}
    kinds |= dict.fromkeys(PRIOR, (prior, "a model with a prior, such as one of system dalle2"))
    for name, (has, which) in kinds.items():
        if dials.get(name) is not None and not has:
            raise ConfigError(f"drawing: {name} is of {which}; leave it out here.", name)


def expect_number(name: str, value: Any, most: float) -> None:
    """Raises ConfigError where a value is no number from 0 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ConfigError(f"drawing: {name}={value!r} must be a number from 0 to {most:g}.", name)


def expect_prompts(prompts: Sequence[Any]) -> None:
    """Raises TaskError where one of what is to be drawn, or done to a picture, is no text or says nothing."""
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise TaskError(f"The prompt is a text, not {type(prompt).__name__} {prompt!r:.40}.")
        if not prompt.strip():
            raise TaskError("The prompt is empty; say what is to be drawn.")
