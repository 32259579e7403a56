"""Parts given as values: the frozen choices of which a network is composed.

A part carries its own few fields and builds its module; a configuration is a tree of parts. That replaces flags:
a combination that makes no sense cannot be written down.
"""

import dataclasses
import math
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

    def expect_numbers(self, *names: str, whole: bool = False, zero: bool = False) -> None:
        """Raises ConfigError where a field is none (see `unlike_number`); None passes where it is the default."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in names or (value is None and field.default is None):
                continue
            if wanted := unlike_number(value, whole=whole, zero=zero):
                raise ConfigError(f"{type(self).__name__}: {field.name}={value!r} {wanted}")


def unlike_number(value: Any, *, whole: bool = False, zero: bool = False) -> str | None:
    """What a value must be, where it is not: a finite number above 0, or with `zero` 0 too; `whole` takes no others."""
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if number and math.isfinite(value) and (value > 0 or (zero and value == 0)):
        return None
    if whole:
        return f"must be a whole number of at least {0 if zero else 1}"
    return "must be a number of at least 0" if zero else "must be a number above 0"


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
