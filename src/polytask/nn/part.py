"""Parts given as values: the frozen choices of which a network is composed.

A part carries its own few fields and builds its module; a configuration is a tree of parts. That replaces flags:
a combination that makes no sense cannot be written down.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from polytask.errors import ConfigError
from polytask.registry import nearest


@dataclass(frozen=True)
class Part:
    """Base of all parts; subclasses are frozen dataclasses and are found by their class name when read from a file."""

    kinds: ClassVar[dict[str, type["Part"]]] = {}

    def __init_subclass__(cls) -> None:
        Part.kinds[cls.__name__] = cls


def to_plain(value: Any) -> Any:
    """Nested plain data (for JSON and YAML): a part becomes {"kind": class name, field: value, ...}."""
    if isinstance(value, Part):
        plain = {"kind": type(value).__name__}
        plain |= {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return plain
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def from_plain(value: Any, where: str = "model") -> Any:
    """Inverse of `to_plain`. Raises ConfigError on an unknown kind or field, naming the nearest."""
    if isinstance(value, list | tuple):
        return tuple(from_plain(item, where) for item in value)
    if not isinstance(value, dict):
        return value
    fields = dict(value)
    kind = fields.pop("kind", None)
    if kind not in Part.kinds:
        raise ConfigError(f"{where}: unknown part '{kind}': {nearest(str(kind), Part.kinds)}")
    cls = Part.kinds[kind]
    known = {field.name for field in dataclasses.fields(cls)}
    for name in fields:
        if name not in known:
            raise ConfigError(f"{where}: {kind} has no field '{name}': {nearest(name, known)}")
    try:
        return cls(**{name: from_plain(item, f"{where}.{name}") for name, item in fields.items()})
    except TypeError as error:
        raise ConfigError(f"{where}: {kind} cannot be made: {error}") from None
