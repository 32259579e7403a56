"""Names for things: each registry maps a name to a lazy "module:object" and helps with misspelt names.

Listing the strings here keeps imports fast and lets a low room name an object of a high one without importing it.
"""

import difflib
from collections.abc import Collection, Iterable, Iterator
from importlib import import_module
from typing import Any

from polytask.errors import ConfigError, Error


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint that ends an error sentence: the nearest of `names`, and all of them where they are few.

    One that has all of its words, of several, and more ("max_tokens", "max_output_tokens") is nearer than one that only
    looks like it.
    """
    names, wanted = sorted(names), name.lower()
    words = set(wanted.split("_"))
    fuller = [one for one in names if len(words) > 1 and words < set(one.split("_"))]
    tries = (names, 0.9), (fuller, 0.0), (names, 0.6)
    close = next(filter(None, (difflib.get_close_matches(wanted, of, 1, cutoff) for of, cutoff in tries)), None)
    if close:
        return f"did you mean '{close[0]}'?"
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return f"there are: {shown or 'none'}."


def expect_known(where: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raises ConfigError for the first of `names` that is not among `known`, with the nearest."""
    for name in names:
        if name not in known:
            raise ConfigError(f"{where}: there is no '{name}': {nearest(name, known)}", name)


class Registry:
    """A named table of lazy objects; `get` imports, `add` takes an object or a "module:object" string."""

    def __init__(self, kind: str, entries: dict[str, Any], error: type[Error] = ConfigError):
        self.kind = kind
        self._entries = dict(entries)
        self._error = error

    def get(self, name: str) -> Any:
        """The object of that name. Raises the registry's error with the nearest name."""
        if name not in self._entries:
            raise self._error(f"Unknown {self.kind} '{name}': {nearest(name, self._entries)}")
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = self._entries[name] = getattr(import_module(module), attribute)
        return entry

    def add(self, name: str, entry: Any) -> None:
        self._entries[name] = entry

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)
