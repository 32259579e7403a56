"""What a user holds of a classifier: pictures get one of the labels that it was trained on.

model = polytask.load("runs/digits-classifier")
model.classify(Path("picture.png"))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polytask import runtime
from polytask.errors import ConfigError, TaskError
from polytask.inference.sampling import Sampling
from polytask.inference.scoring import Score
from polytask.inference.sequence import Completion
from polytask.interop import networks
from polytask.models.built import parameters
from polytask.models.classifier import Classifier
from polytask.pictures.matching import pixels_of, scores
from polytask.registry import nearest
from polytask.tasks.segment import Segment

TOGETHER = 64  # pictures of one pass


@dataclass(frozen=True)
class PictureClassifier:
    """A classifier's folder; it implements `inference.hooks.Answerer` for choices about one picture.

    Pictures that are given are PIL images, bytes or pathlib.Paths; they are resized to what the network reads.
    """

    network: Classifier
    folder: networks.NetworkFolder

    @classmethod
    def load(
        cls, path: str | Path, *, dtype: str = "float32", device: str = "auto", check: bool = True
    ) -> "PictureClassifier":  # fmt: skip
        """The classifier of a folder, or of a run's. Raises CheckpointError, and ConfigError where it holds another
        network."""
        place = runtime.pick_device(device)
        folder = networks.read(path, check=check)
        precision = getattr(torch, runtime.pick_precision(dtype, place))
        network = networks.load(folder.path, dtype=precision, device=place, check=False)
        if not isinstance(network, Classifier):
            raise ConfigError(f"{path} holds no classifier of pictures; name a run of system classifier.")
        return cls(network, folder)

    @property
    def info(self) -> dict[str, Any]:
        return {"parameters": parameters(self.network.config), "pixels": self.side, **self.folder.about}

    @property
    def side(self) -> int:
        """Of the pictures that it reads, in pixels."""
        return self.network.config.image

    @property
    def labels(self) -> list[str]:
        """All that it knows, as it numbers them."""
        return list(self.folder.about["labels"])

    def classify(self, image: Any) -> str:
        """The likeliest label of a picture."""
        shares = self.probabilities([image])[0]
        return max(shares, key=shares.__getitem__)

    def probabilities(self, images: Sequence[Any], labels: Sequence[str] | None = None) -> list[dict[str, float]]:
        """How probable each label is for each picture, given that it has one of `labels`, all unless said. Raises
        TaskError for a label that it does not know."""
        asked = list(self.labels if labels is None else labels)
        shares = self.logits(images, asked).softmax(-1).tolist()
        return [dict(zip(asked, row, strict=True)) for row in shares]

    def features(self, images: Sequence[Any]) -> Tensor:
        """(B, F), what the last layer sees of pictures, on the CPU."""
        return self._seen(images, self.network.features)

    def logits(self, images: Sequence[Any], labels: Sequence[str]) -> Tensor:
        """(B, L) float64. Raises TaskError for a label that it does not know."""
        known = self.labels
        for label in labels:
            if label not in known:
                raise TaskError(f"This classifier was not trained on the label '{label}': {nearest(label, known)}")
        return self._seen(images, self.network)[:, [known.index(label) for label in labels]].double()

    def score(self, prompts: Sequence[list[Segment]], continuations: Sequence[list[Segment]]) -> list[Score]:
        """How likely continuations[i], a label, is of the picture of prompts[i], up to a term that all labels of a
        picture share. Raises TaskError where a prompt has not one picture, and for labels that it does not know."""
        return scores(prompts, continuations, self.logits)

    def produce(self, prompts: Sequence[list[Segment]], sampling: Sampling | None = None) -> list[list[Completion]]:
        """Raises TaskError: a classifier writes nothing."""
        raise TaskError("A classifier writes nothing and chooses among its labels alone.")

    @torch.inference_mode()
    def _seen(self, images: Sequence[Any], network: Any) -> Tensor:
        """What `network` says of all pictures, a part of them at a time."""
        weight = self.network.head.weight
        parts = [pixels_of(images[i : i + TOGETHER], self.side) for i in range(0, len(images), TOGETHER)]
        return torch.cat([network(part.to(weight.device)).float().cpu() for part in parts])
