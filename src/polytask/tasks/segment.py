"""A segment: a piece of one modality, whether the model must produce it, and in a conversation whose turn it is.

An example of any task is a list of segments in order, some given, some to be produced (`target`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, cast

from polytask.errors import TaskError

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Text:
    """A piece of text. `target`: the model must produce it; `role`: whose turn it is, None outside conversations."""

    text: str
    target: bool = False
    role: Role | None = None
    modality: ClassVar[str] = "text"


@dataclass(frozen=True)
class Image:
    """A picture as the bytes of a PNG, a JPEG, ...; `tasks.picture.decode` makes pixels of them where they are used.

    `target`: the model must draw it; `role` as in `Text`. A prompt that asks for a picture ends with `TO_DRAW`.
    """

    data: bytes = field(repr=False)
    target: bool = False
    role: Role | None = None
    modality: ClassVar[str] = "image"


Segment = Text | Image
TO_DRAW = Image(b"", target=True)


def to_draw(segments: Sequence[Segment]) -> bool:
    """Whether a prompt asks for a picture."""
    return bool(segments) and segments[-1] == TO_DRAW


def shown(segment: Segment) -> str:
    """The segment in a line of text for people: a picture is "[picture]"."""
    return segment.text if isinstance(segment, Text) else "[picture]"


def texts(segments: Iterable[Segment]) -> list[Text]:
    """The same segments, for who reads and writes nothing but text. Raises TaskError where one is a picture."""
    found = list(segments)
    if any(isinstance(segment, Image) for segment in found):
        raise TaskError("This model reads and writes text alone, and there is a picture; take a model for pictures.")
    return cast("list[Text]", found)
