"""What models and the server are called, known before any of them is loaded."""

import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path

from polytask.errors import ConfigError
from polytask.registry import nearest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
HOST_NAME = re.compile(r"[a-z0-9._-]+")


def named(name: str | None, path: str, others: Mapping[str, str]) -> dict[str, str]:
    """Paths by name, the first one first. Raises ConfigError for a name that is given twice or cannot be one."""
    first = name or name_of(path)
    if first in others:
        raise ConfigError(f"serve: two models are called '{first}'; give one of them another name.")
    paths = {first: path, **others}
    for each in paths:
        expect_name(each)
    return paths


def drafts(given: Iterable[str], names: Sequence[str]) -> dict[str, str]:
    """What guesses ahead for which model: NAME=PATH, and PATH alone for the first one. Raises ConfigError."""
    found: dict[str, str] = {}
    for word in given:
        name, path = word.split("=", 1) if "=" in word else (names[0], word)
        if name not in names:
            raise ConfigError(f"--draft: there is no model '{name}': {nearest(name, names)}")
        if name in found:
            raise ConfigError(f"--draft: '{name}' is given two; give each model one at most, as NAME=PATH.")
        found[name] = path
    return found


def expect_name(name: str) -> None:
    """Raises ConfigError for a name that would not fit into an address or a label."""
    if not NAME.fullmatch(name) or len(name) > 200:
        raise ConfigError(
            f"serve: '{name}' cannot be a model's name; use letters, digits, '.', '_', '-', and '/' between parts."
        )


def name_of(path: str) -> str:
    """What a model is called where nobody says it: its folder, or the run's that it is of."""
    folder = Path(path).resolve() if Path(path).exists() else Path(path)
    named = folder.parent if folder.name == "model" and folder.parent.name else folder
    return re.sub(r"[^A-Za-z0-9._-]", "-", named.name).lstrip("._-") or "model"


def is_host(name: str) -> bool:
    """Whether a server can be asked by it: a name without a port, or an address."""
    return HOST_NAME.fullmatch(name.lower()) is not None or is_address(name)


def is_address(name: str) -> bool:
    """Whether it is an IP address in numbers."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
