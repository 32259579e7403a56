"""Templates of others, rendered as transformers does it, in jinja2's sandbox and with bounds on what they may make."""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateSyntaxError, ext, nodes
from jinja2.exceptions import TemplateError
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from polytask.errors import TokenizerError

LONGEST = 1_000_000  # characters that a template may add, and turns of its loops over numbers
REFUSALS = (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError)


class _Generation(ext.Extension):
    """{% generation %} marks what an assistant wrote, for training; it changes nothing here."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Products that fill the memory are refused before they are made."""
        for one, other in ((left, right), (right, left)):
            if operator == "*" and isinstance(one, str | list | tuple) and isinstance(other, int):
                _expect(len(one) * other <= LONGEST)
        _expect(operator == "*" or not isinstance(right, int) or right <= 1000)
        return super().call_binop(context, operator, left, right)


def render(source: str, room: int, words: Mapping[str, Any]) -> str:
    """The text that a template makes of `words`, at most LONGEST characters beside `room`. Raises TokenizerError where
    the template is broken, refuses or runs away."""
    template, left = _compiled(source), LONGEST + room
    pieces: list[str] = []
    try:
        for piece in template.generate(range=_bounded_range(), **words):
            pieces.append(piece)
            left -= len(piece)
            _expect(left >= 0)
    except REFUSALS as error:
        raise TokenizerError(f"The model's chat template cannot lay this conversation out: {error}") from None
    except (MemoryError, RecursionError):
        raise TokenizerError(f"The model's chat template cannot lay this conversation out: {_RUNS_AWAY}") from None
    return "".join(pieces)


def literals(source: str) -> set[str]:
    """The texts in a template's expressions."""
    parsed = _compiled(source).environment.parse(source)
    return {node.value for node in parsed.find_all(nodes.Const) if isinstance(node.value, str) and node.value}


@lru_cache(maxsize=8)
def _compiled(source: str) -> Template:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[ext.loopcontrols, _Generation])
    environment.filters["tojson"] = _json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise TokenizerError(f"The model's chat template is broken at line {error.lineno}: {error.message}") from None
    except RecursionError:
        raise TokenizerError("The model's chat template is broken: it is nested too deep.") from None


def _refuse(message: str) -> None:
    raise TemplateError(message)


_RUNS_AWAY = "it makes too much of it."


def _expect(bounded: bool) -> None:
    if not bounded:
        raise TemplateError(_RUNS_AWAY)


def _bounded_range() -> Callable[..., Iterator[int] | range]:
    left = LONGEST

    def bounded(*bounds: int) -> range:
        nonlocal left
        numbers = range(*bounds)
        left -= len(numbers)
        _expect(left >= 0)
        return numbers

    return bounded


def _json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """jinja2's own escapes what HTML would misread."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
