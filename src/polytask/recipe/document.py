"""YAML with the places of its keys, so that an error names a line, and overrides of single keys."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from polytask.errors import ConfigError

Key = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML as its version 1.2 reads it: `no` is a word (and a language), 1e-3 is a number."""

    yaml_implicit_resolvers: dict[str, Any] = {}


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
    )
    _class.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9][0-9_]*$"), list("-+0123456789"))
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?$|^[-+]?\.inf$"),
        list("-+.0123456789"),
    )


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(node.value.replace("_", ""))  # 010 is ten


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


# Two ways to say one thing: an override of one takes the place of the other that the file has.
_PAIRS = (("steps", "tokens"), ("batch_rows", "batch_tokens"))
_INSTEAD: dict[Key, str] = {("training", a): b for pair in _PAIRS for a, b in (pair, pair[::-1])}


class Document:
    """The plain data of a YAML text, and the line of each key."""

    def __init__(self, text: str, name: str):
        self.name = name
        self.lines: dict[Key, int] = {}
        self.overridden: dict[Key, str] = {}
        loader = None
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            if node is not None:
                self._walk(node, ())
            self.data: Any = {} if node is None else loader.construct_document(node)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise ConfigError(
                f"{name} line {line}: the character {error.character:#x} cannot be in YAML; remove it."
            ) from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f" line {mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or str(error).split("\n", 1)[0]
            raise ConfigError(f"{name}{line}: not YAML ({problem}); check indentation, colons and quotes.") from error
        finally:
            if loader is not None:
                loader.dispose()
        if not isinstance(self.data, dict):
            raise ConfigError(f"{name}: a recipe is a mapping of keys (model, data, training, ...) to values.")

    def _walk(self, node: yaml.Node, path: Key) -> None:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise ConfigError(
                        f"{self.name} line {key.start_mark.line + 1}: a mapping or a list cannot be a key; quote "
                        "what is in braces or brackets where it is text."
                    )
                if key.value in seen:
                    raise ConfigError(
                        f"{self.name} line {key.start_mark.line + 1}: '{key.value}' is here twice; keep one."
                    )
                seen.add(key.value)
                self.lines[(*path, key.value)] = key.start_mark.line + 1
                self._walk(value, (*path, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._walk(value, (*path, index))

    def where(self, path: Key) -> str:
        """ "recipe.yaml line 7", by the nearest key above that the file has, or the override that set it."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.overridden:
                return f"override {self.overridden[path[:end]]}"
            if path[:end] in self.lines:
                return f"{self.name} line {self.lines[path[:end]]}" if end else self.name
        return self.name

    def override(self, text: str) -> None:
        """Sets "a.b.0.c=value", the value as YAML; sections that are absent are made. Raises ConfigError."""
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"override '{text}': write key=value, for example training.lr=1e-3.")
        path = tuple(int(part) if part.isdigit() else part for part in key.strip().split("."))
        try:
            parsed = yaml.load(value, _Loader) if value.strip() else None
        except yaml.YAMLError as error:
            raise ConfigError(f"override '{text}': the value is not YAML; quote it.") from error
        at = self.data
        for depth, part in enumerate(path[:-1]):
            at = self._enter(at, part, text, path[: depth + 1])
        self._enter(at, path[-1], text, path, parsed)
        self.overridden[path] = text
        other = _INSTEAD.get(path)
        if other is not None and (*path[:-1], other) not in self.overridden:
            at.pop(other, None)

    def _enter(self, at: Any, part: Any, text: str, path: Key, *value: Any) -> Any:
        """The item `part` of `at`, set to `value` where one is given."""
        if isinstance(at, list):
            if not isinstance(part, int) or part >= len(at):
                above = ".".join(map(str, path[:-1]))
                raise ConfigError(
                    f"override '{text}': {above} is a list of {len(at)}; items are named by number, 0 to {len(at) - 1}."
                )
        elif not isinstance(at, dict):
            raise ConfigError(f"override '{text}': {'.'.join(map(str, path[:-1]))} is a value without keys.")
        elif value or at.get(part) is None:
            at[part] = value[0] if value else {}
        if value and isinstance(at, list):
            at[part] = value[0]
        return at[part]


def dump(data: Any) -> str:
    """Plain data as YAML that `Document` reads back."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def read_document(path: Path, overrides: Sequence[str] = ()) -> Document:
    """Raises ConfigError where the file cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the recipe cannot be read ({error}).") from error
    document = Document(text, path.name)
    for override in overrides:
        document.override(override)
    return document
