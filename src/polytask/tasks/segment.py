"""A segment: a piece of one modality, whether the model must produce it, and in a conversation whose turn it is.

An example of any task is a list of segments in order, some given, some to be produced (`target`).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Text:
    """A piece of text. `target`: the model must produce it; `role`: whose turn it is, None outside conversations."""

    text: str
    target: bool = False
    role: Role | None = None
    modality: ClassVar[str] = "text"


Segment = Text  # pictures and sounds join this union when there are encoders for them
