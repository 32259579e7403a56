"""How pictures are drawn, as a user says it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from polytask.diffusion import samplers
from polytask.errors import ConfigError
from polytask.models.prior import SCHEDULE
from polytask.registry import nearest

MOST = 512  # pictures of one call
SEARCHED = (0.0, 0.1, 0.2, 0.3)  # levels of augmentation; in training they were spread from 0 to 1
NOISY = ("ddpm", "ddim")  # samplers that add noise on the way, as much as eta says


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn.

    steps, sampler, eta, guidance, threshold: see `inference.images.ImageRequest`; guidance is of the caption or the
    label, 1 being none; picture_guidance of the picture that an instruction changes, 1 being none, 1.5 (Brooks et al.
    2023) unless said. prior_steps, prior_guidance, prior_candidates: of unCLIP's prior.

    augmentation: noise, from 0 to 1, that a network which enlarges is told of the smaller picture and that is put into
    it; or several levels, or "search" for `SEARCHED`, of which every picture gets the best by a CLIP. Published
    (Saharia et al. 2022, section 2.4): levels are tried when drawing, and sample quality over a whole set of captions
    says which to keep. Ours: each picture is drawn at every level, and its own score by CLIP decides.
    """

    n: int = 1
    seed: int = 0
    steps: int = 50
    guidance: float = 3.0
    picture_guidance: float | None = None
    sampler: str = "ddim"
    eta: float | None = None
    threshold: str | None = "static"
    prior_steps: int = 64
    prior_guidance: float = 2.0
    prior_candidates: int = 2
    augmentation: float | Literal["search"] | Sequence[float] = 0.1

    def __post_init__(self) -> None:
        for name, most in (("n", MOST), ("steps", 100_000), ("prior_steps", SCHEDULE.steps), ("prior_candidates", 64)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ConfigError(f"drawing: {name}={value!r} must be a whole number from 1 to {most:,}.")
        for name in ("guidance", "picture_guidance", "prior_guidance"):
            if getattr(self, name) is not None:
                expect_number(name, getattr(self, name), 100.0)
        for level in self.levels:
            expect_number("augmentation", level, 1.0)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ConfigError(f"drawing: seed={self.seed!r} must be a whole number from 0 to {2**63 - 1:,}.")
        samplers.SAMPLERS.get(self.sampler)
        if self.eta is not None:
            expect_number("eta", self.eta, 1.0)
            if self.sampler not in NOISY:
                raise ConfigError(f"drawing: {self.sampler} adds no noise on the way; eta is of {' and '.join(NOISY)}.")

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels of augmentation to be tried. Raises ConfigError where there are none."""
        said = self.augmentation
        if said == "search":
            return SEARCHED
        if isinstance(said, str) or (isinstance(said, Sequence) and not said):
            raise ConfigError(
                f"drawing: augmentation={said!r} must be a number from 0 to 1, several of them, or 'search'."
            )
        return tuple(said) if isinstance(said, Sequence) else (said,)

    @classmethod
    def of(cls, words: Mapping[str, Any]) -> "Drawing":
        """Raises ConfigError for a word that there is not, with the nearest."""
        for name in words:
            if name not in cls.__dataclass_fields__:
                raise ConfigError(f"drawing: there is no '{name}': {nearest(name, cls.__dataclass_fields__)}")
        return cls(**words)


def expect_number(name: str, value: Any, most: float) -> None:
    """Raises ConfigError where a value is no number from 0 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ConfigError(f"drawing: {name}={value!r} must be a number from 0 to {most:g}.")
