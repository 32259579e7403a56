"""Pictures that the network looks at by itself: among the ids stands a placeholder for each of its states."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from polytask.errors import TokenizerError
from polytask.tasks.picture import decode, fitted, to_tensor

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Places:
    """Ids below `text` are of texts, and `placeholder`, which may be one of them that no text is given, stands
    `tokens` times for a picture."""

    text: int
    placeholder: int
    tokens: int
    padding: ClassVar[bool] = False

    @property
    def first(self) -> int:
        """No id from here on is of a text."""
        return self.placeholder

    @property
    def size(self) -> int:
        return max(self.text, self.placeholder + 1)

    def spell(self, ids: Iterable[int]) -> str:
        """The names of placeholders. Raises TokenizerError where there is no such id."""
        ids = list(ids)
        if any(i != self.placeholder for i in ids):
            raise TokenizerError(f"Id {max(ids)} is none of the {self.size} that there are.")
        return "<|image|>" * len(ids)


@dataclass(frozen=True)
class Sight:
    """Pictures of `size` x `size` pixels to placeholders; what they show is given to the network beside the ids."""

    vocabulary: Places
    size: int
    draws: ClassVar[bool] = False

    @property
    def fingerprint(self) -> str:
        """All that decides which ids and pixels a picture gets."""
        return repr(self)

    def among(self, files: Sequence[bytes]) -> list[list[int]]:
        """The ids of encoded pictures (PNG, ...) as they stand among texts."""
        return [[self.vocabulary.placeholder] * self.vocabulary.tokens for _ in files]

    def pixels(self, files: Sequence[bytes]) -> np.ndarray:
        """Encoded pictures as (P, S, S, 3) uint8; what has another size is scaled and cropped. Raises TaskError for a
        broken one."""
        shown = [np.asarray(fitted(decode(data), self.size)) for data in files]
        return np.stack(shown) if shown else np.zeros((0, self.size, self.size, 3), np.uint8)

    def seen(self, files: Sequence[bytes]) -> "Tensor":
        """The same as (P, 3, S, S) in [-1, 1]."""
        return to_tensor([fitted(decode(data), self.size) for data in files])
