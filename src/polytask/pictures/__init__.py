"""What a user holds of a system that draws by diffusion: pictures from captions or labels, edits and variations.

model = polytask.load("runs/imagen-blocks")
model.draw("a large green circle left of a small black square", n=4, seed=7)     # PIL images
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polytask.errors import ConfigError, TaskError, cannot
from polytask.inference.dials import Drawing as Drawing
from polytask.inference.dials import expect_fitting, expect_number, expect_prompts
from polytask.inference.images import ImageEngine, Share
from polytask.inference.matching import Matcher, expect_candidates
from polytask.interop import networks
from polytask.models.built import parameters
from polytask.models.diffusion import DiffusionConfig
from polytask.pictures import embeddings
from polytask.pictures.painter import NO_CLIP, Aim, Known, Painter
from polytask.tasks.picture import at_home, exact, opened, to_picture, to_tensor

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass
class PictureModel:
    """A folder of a drawing system. Pictures that are given are PIL images, bytes or paths; those that come back are
    PIL images. `dials` are fields of `Drawing`; those that are not said are as the folder says, stage by stage."""

    painter: Painter

    @classmethod
    def load(
        cls, path: str | Path, *, dtype: str = "float32", device: str = "auto", check: bool = True
    ) -> "PictureModel":  # fmt: skip
        """The model of a folder, or of a run's. Raises CheckpointError, and ConfigError where it draws nothing."""
        return cls(Painter.load(path, dtype, device, check))

    @property
    def folder(self) -> networks.NetworkFolder:
        return self.painter.folder

    @property
    def config(self) -> DiffusionConfig:
        return self.painter.config

    @property
    def side(self) -> int:
        """Of its pictures, in pixels."""
        return self.painter.side

    @property
    def labels(self) -> list[str]:
        """What it draws by, where it reads no captions."""
        return self.painter.labels

    @property
    def able(self) -> list[str]:
        """What it can be asked; variations of a model that draws CLIP's embeddings alone, and editing alone of one that
        changes pictures as an instruction says."""
        if self.config.changes:
            return ["editing"]
        return ["drawing", "editing", *(["variations"] if self.painter.matcher else [])]

    @property
    def text_length(self) -> int:
        """Tokens of a caption, its end included."""
        return self.painter.text_length

    @property
    def info(self) -> dict[str, Any]:
        return {"parameters": parameters(self.config), "pixels": self.side, **self.folder.about}

    @property
    def engines(self) -> list[ImageEngine]:
        """Of its networks, the last stage's first."""
        return self.painter.engines

    def shared(self) -> "tuple[PictureModel, list[Share]]":
        """The model for one of several users, each in a thread: what they ask is drawn in the same passes. The shares
        end what that user's draws."""
        painter, shares = self.painter.shared()
        return PictureModel(painter), shares

    def draw(
        self, prompt: str, n: int = 1, seed: int = 0, *, candidates: int | None = None,
        clip: str | Path | Matcher | None = None, **dials: Any,
    ) -> "list[Image]":  # fmt: skip
        """n pictures of a caption, or of a label.

        candidates: so many are drawn, 512 at most, and those come back that fit the caption best by a CLIP: that of the
        folder `clip`, or the model's own (Ramesh et al. 2021, section 2.6, for DALL-E). The same CLIP chooses where
        several levels of `augmentation` are tried.

        Raises TooLong for a caption beyond the text window, ConfigError for dials out of range, unknown labels and
        candidates without a CLIP, and SamplingError where a step gives no picture.
        """
        words = {"n": n, "seed": seed, "candidates": candidates, "clip": clip, **dials}
        return self.draw_many([prompt], **words)[0]

    def wish(self, dials: Mapping[str, Any]) -> Drawing:
        """How it draws, the last stage of it: as `dials` say, else as its folder does. Raises ConfigError for dials out
        of range, and for those that are of other models."""
        painter = self.painter
        prior, told = painter.first.prior is not None, painter.told_of_noise
        expect_fitting(dials, changes=self.config.changes, told=told, prior=prior)
        return painter.wishes(dials)[0]

    def told(self, dials: Mapping[str, Any]) -> dict[str, Any]:
        """How it draws, all of its stages, for a report."""
        stages = [vars(one) for one in self.painter.wishes(dials)]
        return stages[0] | ({"base": stages[1:]} if stages[1:] else {})

    def draw_many(
        self, prompts: Sequence[str], *, candidates: int | None = None, clip: str | Path | Matcher | None = None,
        **dials: Any,
    ) -> "list[list[Image]]":  # fmt: skip
        """The same for many captions in the same passes; their pictures have the noise of seed, seed + 1, ..."""
        if self.config.changes:
            raise TaskError("This model changes a picture as an instruction says; give it one (polytask edit).")
        return self._best(prompts, dials, None, candidates, clip)

    def edit(
        self, picture: Any, prompt: str, mask: Any = None, *, resize: bool = False, n: int = 1, seed: int = 0,
        candidates: int | None = None, clip: str | Path | Matcher | None = None, **dials: Any,
    ) -> "list[Image]":  # fmt: skip
        """Pictures that are as `picture` where the mask is black, and drawn anew where it is white, so that the whole
        fits `prompt`; of a model that learned to change pictures, changed as `prompt` says, everywhere or where a mask
        is white. resize: pictures and masks of other sizes are fitted. candidates, clip: as in `draw`.

        Raises TaskError without a mask that is needed, or where a size differs and `resize` is not said.
        """
        dials |= {"n": n, "seed": seed}
        if self.config.changes:
            if candidates is not None or clip is not None:
                raise ConfigError(
                    "A CLIP fits pictures to captions, and this model is told what to change; leave it out."
                )
            self._expect([prompt], dials)
            known = None if mask is None else self._known(picture, mask, resize)
            given = self._given(picture, resize, "picture")
            return shown(self.painter.draw([prompt], dials, known, given=given))
        if mask is None:
            raise TaskError(
                "This model edits where a mask says: give one, white where the picture is to be drawn anew."
            )
        known = self._known(picture, mask, resize)
        return self._best([prompt], dials, known, candidates, clip)[0]

    def edit_many(
        self, pictures: Sequence[Any], instructions: Sequence[str], *, resize: bool = False, **dials: Any
    ) -> "list[list[Image]]":  # fmt: skip
        """`edit` of many pictures in the same passes, of a model that changes them as an instruction says; their noise
        is that of seed, seed + 1, ..."""
        if not self.config.changes:
            raise TaskError("This model draws where a mask says, one picture at a time; use `edit`.")
        wish = self._expect(instructions, dials)
        given = torch.cat([self._given(picture, resize, "picture") for picture in pictures])
        drawn = self.painter.draw(instructions, dials, given=given)
        return [shown(drawn[i : i + wish.n]) for i in range(0, len(drawn), wish.n)]

    def _known(self, picture: Any, mask: Any, resize: bool) -> Known:
        """What stays of a picture, as a mask says. Raises TaskError."""
        pixels = self._given(picture, resize, "picture")
        chosen = self._given(mask, resize, "mask").mean(1, keepdim=True) > 0
        if not chosen.any():
            raise TaskError("The mask is black everywhere, so nothing would be drawn anew; paint a part of it white.")
        return Known(pixels, chosen)

    # Of a model that draws CLIP's embeddings, such as unCLIP; all raise TaskError where it does not. A picture's own
    # noise is found by as many steps, and with the same guidance, as drawing takes; both may be few where much is.

    def variations(
        self, picture: Any, n: int = 1, seed: int = 0, *, details: bool = False, resize: bool = True, **dials: Any
    ) -> "list[Image]":  # fmt: skip
        """Pictures that show the same: of the embedding that CLIP has of `picture`, from fresh noise.

        details: from the picture's own noise, so that much of it stays, with new noise on the way as `eta` says (0.5
        unless said; 0 gives the picture back), as published (Ramesh et al. 2022, section 3.1).
        """
        dials |= {"n": n, "seed": seed}
        self.wish(dials)
        return shown(embeddings.variations(self.painter, self._given(picture, resize, "picture"), dials, details))

    def interpolate(
        self, first: Any, second: Any, n: int = embeddings.WAY, seed: int = 0, *, details: bool = True,
        resize: bool = True, **dials: Any,
    ) -> "list[Image]":  # fmt: skip
        """n pictures on the way from one to another, both ends included (Ramesh et al. 2022, section 3.2).

        details: noise is interpolated too, from that of the one to that of the other, so that both ends are the
        pictures; without, all are drawn from one noise.
        """
        dials |= {"n": n, "seed": seed}
        self.wish(dials)
        pair = [self._given(picture, resize, "picture") for picture in (first, second)]
        return shown(embeddings.interpolation(self.painter, pair[0], pair[1], dials, details))

    def difference(
        self, picture: Any, before: str, after: str, n: int = embeddings.TURN, seed: int = 0, *, theta: float = 0.5,
        details: bool = True, resize: bool = True, **dials: Any,
    ) -> "list[Image]":  # fmt: skip
        """n pictures that turn from `picture` to what the caption `after` says and `before` does not (Ramesh et al.
        2022, section 3.3). theta: the share of the way to go at most; 0.25 to 0.5 as published. Of several pictures the
        first is the given one.

        details: from the picture's own noise, as published.
        """
        expect_number("theta", theta, 1.0)
        dials |= {"n": n, "seed": seed}
        self._expect([after], dials)
        pixels = self._given(picture, resize, "picture")
        return shown(embeddings.difference(self.painter, pixels, before, after, dials, theta, details))

    ask = ask_many = generate = chat = caption = answer = classify = cannot(
        "This model draws pictures by diffusion and neither reads them nor writes; ask another one, such as a run of "
        "vision-blocks."
    )

    def _expect(self, prompts: Sequence[str], dials: Mapping[str, Any]) -> Drawing:
        """`wish`. Raises TaskError where a prompt is none."""
        expect_prompts(prompts)
        return self.wish(dials)

    def _best(
        self, prompts: Sequence[str], dials: Mapping[str, Any], known: Known | None, candidates: int | None,
        clip: str | Path | Matcher | None,
    ) -> "list[list[Image]]":  # fmt: skip
        """n pictures of each prompt, the best of so many candidates where there are such."""
        wish, aim = self._expect(prompts, dials), None
        if candidates is not None or self.painter.tries(dials) > 1:
            matcher = self._matcher(clip)
            aim = Aim(matcher, matcher.embed_texts(prompts, cut=True))
        elif clip is not None:
            raise ConfigError("`clip` chooses the best of `candidates`; say how many, such as candidates=16.")
        count = wish.n if candidates is None else candidates
        expect_candidates(count, wish.n)
        drawn = self.painter.draw(prompts, {**dials, "n": count}, known, aim)
        every = [drawn[i : i + count] for i in range(0, len(drawn), count)]
        if candidates is not None and aim is not None:
            every = [aim.best(number, own, wish.n) for number, own in enumerate(every)]
        return [shown(own) for own in every]

    def _matcher(self, clip: str | Path | Matcher | None) -> Matcher:
        """Raises ConfigError where there is no CLIP."""
        if isinstance(clip, Matcher):
            return clip
        if clip is not None:
            folder = networks.read(clip)
            network = networks.load(folder.path, device=self.painter.device, check=False)
            return Matcher.of(network, folder.tokenizer, folder.path)
        if self.painter.matcher is None:
            raise ConfigError(NO_CLIP)
        return self.painter.matcher

    def _given(self, picture: Any, resize: bool, what: str) -> Tensor:
        """(1, 3, S, S) of a picture or mask that a user gave."""
        return to_tensor(exact(opened(at_home(picture)), self.side, resize, what))[None]


def shown(pixels: Sequence[Tensor]) -> "list[Image]":
    return [to_picture(one[0]) for one in pixels]
