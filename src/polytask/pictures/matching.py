"""What a user holds of a CLIP (Radford et al. 2021): pictures are classified by labels that are named when asked.

model = polytask.load("runs/clip-blocks")
model.classify(Path("picture.png"), ["a cat", "a dog"])
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polytask import runtime
from polytask.errors import ConfigError, TaskError
from polytask.inference.matching import Matcher
from polytask.inference.sampling import Sampling
from polytask.inference.scoring import Score
from polytask.inference.sequence import Completion
from polytask.interop import networks
from polytask.models.built import parameters
from polytask.tasks.picture import fitted, opened, to_tensor
from polytask.tasks.scoring import written
from polytask.tasks.segment import Image, Segment

PLAIN = ("{}",)
PUBLISHED = ("a photo of a {}.", "a photo of a big {}.", "a photo of a small {}.")  # those that section 3.1.4 names


@dataclass(frozen=True)
class PictureMatcher:
    """A CLIP's folder; it implements `inference.hooks.Answerer` for choices about one picture.

    Pictures that are given are PIL images, bytes or pathlib.Paths. templates: texts into which a label is put at {},
    "a photo of a {}."; the embeddings of all of them are averaged (section 3.1.4). A label is a text by itself
    unless said. "published" stands for `PUBLISHED`.
    """

    matcher: Matcher
    folder: networks.NetworkFolder
    templates: Sequence[str] = PLAIN

    def __post_init__(self) -> None:
        given = PUBLISHED if self.templates in ("published", ["published"]) else self.templates
        if isinstance(given, str) or not given:
            raise ConfigError(f"templates={self.templates!r} are a list of texts with {{}} in them, or 'published'.")
        for one in given:
            if one.count("{}") != 1:
                raise ConfigError(
                    f"The template '{one}' has no single {{}} where a label goes; say 'a photo of a {{}}' or the like."
                )
        object.__setattr__(self, "templates", tuple(given))

    @classmethod
    def load(
        cls, path: str | Path, *, dtype: str = "float32", device: str = "auto", templates: Sequence[str] = PLAIN,
        check: bool = True,
    ) -> "PictureMatcher":  # fmt: skip
        """The CLIP of a folder, of a run's, or of open weights. Raises CheckpointError, and ConfigError where it holds
        another network or no tokenizer."""
        place = runtime.pick_device(device)
        folder = networks.read(path, check=check)
        precision = getattr(torch, runtime.pick_precision(dtype, place))
        network = networks.load(folder.path, dtype=precision, device=place, check=False)
        return cls(Matcher.of(network, folder.tokenizer, folder.path), folder, templates)

    @property
    def info(self) -> dict[str, Any]:
        config = self.matcher.network.config
        return {"parameters": parameters(config), "pixels": self.matcher.side, **self.folder.about}

    def embed(self, given: Any) -> Tensor:
        """Unit vectors (B, E), on the CPU, of texts or of pictures; of one that is no list (1, E). Raises TooLong,
        TaskError."""
        several = list(given) if isinstance(given, Sequence) and not isinstance(given, str | bytes) else [given]
        if not several:
            raise TaskError("There is nothing to embed; give texts or pictures.")
        words = [one for one in several if isinstance(one, str)]
        if words and len(words) < len(several):
            raise TaskError("Texts and pictures are embedded apart; give a list of either.")
        found = self.matcher.embed_texts(words) if words else self.matcher.embed_pictures(self._pixels(several))
        return found.float().cpu()

    def classify(self, image: Any, labels: Sequence[str], templates: Sequence[str] | None = None) -> str:
        """The label that fits a picture best."""
        shares = self.probabilities([image], labels, templates)[0]
        return max(shares, key=shares.__getitem__)

    def probabilities(
        self, images: Sequence[Any], labels: Sequence[str], templates: Sequence[str] | None = None
    ) -> list[dict[str, float]]:  # fmt: skip
        """How probable each label is for each picture, given that one of them fits (section 3.1.2)."""
        if isinstance(labels, str) or len(set(labels)) < 2 or not all(map(str.strip, labels)):
            raise TaskError(f"labels={labels!r} must be a list of two different texts or more, none of them empty.")
        labels = list(dict.fromkeys(labels))  # one that is given twice counts once
        asked = self if templates is None else replace(self, templates=templates)
        shares = asked.logits(images, labels).softmax(-1).tolist()
        return [dict(zip(labels, row, strict=True)) for row in shares]

    @torch.inference_mode()
    def logits(self, images: Sequence[Any], labels: Sequence[str]) -> Tensor:
        """(B, L) float64: cosines of pictures and labels times the network's scale."""
        seen = self.matcher.embed_pictures(self._pixels(images))
        return (self.matcher.network.scale * seen @ self.of_labels(labels).mT).double().cpu()

    def of_labels(self, labels: Sequence[str]) -> Tensor:
        """Unit vectors (L, E): of each label the mean over all templates."""
        texts = [template.replace("{}", label) for label in labels for template in self.templates]
        each = self.matcher.embed_texts(texts).unflatten(0, (len(labels), -1))
        return F.normalize(each.mean(1), dim=-1)

    def score(self, prompts: Sequence[list[Segment]], continuations: Sequence[list[Segment]]) -> list[Score]:
        """How well continuations[i], a label, fits the picture of prompts[i], up to a term that all labels of a picture
        share; so probabilities among choices are right. Raises TaskError where a prompt has not one picture."""
        return scores(prompts, continuations, self.logits)

    def produce(self, prompts: Sequence[list[Segment]], sampling: Sampling | None = None) -> list[list[Completion]]:
        """Raises TaskError: a CLIP writes nothing."""
        raise TaskError("A CLIP writes nothing and chooses among labels alone; name them (labels).")

    def _pixels(self, pictures: Sequence[Any]) -> Tensor:
        """(B, 3, S, S); what is not square is cut, as in training."""
        return pixels_of(pictures, self.matcher.side)


def pixels_of(pictures: Sequence[Any], side: int) -> Tensor:
    """(B, 3, side, side) in [-1, 1] of PIL images, bytes or pathlib.Paths; what is not square is cut, as in
    training."""
    return torch.stack([to_tensor(fitted(opened(one), side)) for one in pictures])


def scores(
    prompts: Sequence[list[Segment]], continuations: Sequence[list[Segment]],
    logits: Callable[[Sequence[bytes], Sequence[str]], Tensor],
) -> list[Score]:  # fmt: skip
    """How well continuations[i], a label, fits the picture of prompts[i]. logits(pictures, labels): (B, L), each
    picture and label once. Raises TaskError where a prompt has not one picture."""
    pictures = [_picture(prompt) for prompt in prompts]
    labels = [written(one) for one in continuations]
    different, named = list(dict.fromkeys(pictures)), list(dict.fromkeys(labels))
    if not different:
        return []
    table = logits(different, named)
    rows = [different.index(one) for one in pictures]
    found, best = table[rows, [named.index(one) for one in labels]].tolist(), table.amax(1)[rows].tolist()
    return [Score(one, 1, one >= most) for one, most in zip(found, best, strict=True)]


def _picture(prompt: Sequence[Segment]) -> bytes:
    found = [segment.data for segment in prompt if isinstance(segment, Image)]
    if len(found) != 1:
        raise TaskError(f"This model classifies one picture by itself, and here are {len(found)}; ask without shots.")
    return found[0]
