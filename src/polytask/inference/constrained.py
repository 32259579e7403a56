"""Answers that keep to a grammar: JSON, a JSON Schema, a regular expression or a context-free grammar.

llguidance (github.com/guidance-ai/llguidance) compiles them: an Earley parser over lexemes, whose regular expressions
are automata made as they are needed, by derivatives (Brzozowski 1964). Before each token it says which ids may come
next; an end may come only where the grammar accepts. A grammar that costs too much time or memory is refused, when it
is compiled or in the step in which that shows.
"""

import json
import math
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from collections.abc import Sequence as Listing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from polytask.errors import ConfigError, MissingExtra
from polytask.tokenizers.text import TextTokenizer

Kind = Literal["schema", "regex", "lark"]
LONGEST = {"schema": 200_000, "regex": 10_000, "lark": 50_000}  # characters
DEEPEST = 100  # brackets within each other
REMAINDERS = 10_000  # states of the automata that keep all of a schema's `multipleOf`
KEPT = 64  # compiled grammars
# The library's own limits, in its units: some 50,000 a millisecond to compile, 14,000 a millisecond in a step, of which
# a large regular expression costs far more than its fuel says: ((a{100}){100}){10} took 25 ms for each token.
LIMITS = {
    "initial_lexer_fuel": 200_000, "step_lexer_fuel": 20_000, "max_items_in_row": 1_000, "step_max_items": 30_000,
    "max_lexer_states": 25_000, "max_grammar_size": 100_000, "verbose_errors": False,
}  # fmt: skip
# A run of blanks ends; left to itself a model may write them for ever, which every JSON grammar allows.
BLANKS = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,20}"}
OBJECT = '{"type": "object"}'


@dataclass(frozen=True)
class Guide:
    """What an answer must be: made by `json`, `schema`, `regex`, `lark` or `parse`, all of which raise ConfigError for
    what is broken or too large."""

    kind: Kind
    text: str

    def __post_init__(self) -> None:
        most = LONGEST[self.kind]
        if len(self.text) > most:
            raise _refusal(self.kind, f"it has {len(self.text)} characters, and we take {most}")
        if _depth(self.text) > DEEPEST:
            raise _refusal(self.kind, f"its brackets lie more than {DEEPEST} deep in each other")
        if self.kind == "schema":
            _check_schema(self.text)

    @classmethod
    def json(cls) -> "Guide":
        """Any JSON object."""
        return cls("schema", OBJECT)

    @classmethod
    def schema(cls, schema: Mapping[str, Any] | bool | str) -> "Guide":
        """JSON that a JSON Schema allows, its properties in the order in which the schema names them."""
        try:
            return cls("schema", schema if isinstance(schema, str) else json.dumps(schema))
        except (TypeError, ValueError, RecursionError) as error:
            raise _refusal("schema", f"it cannot be written as JSON ({error})") from None

    @classmethod
    def regex(cls, pattern: str) -> "Guide":
        """A text that the regular expression matches as a whole (Rust's syntax, without looking around)."""
        return cls("regex", pattern)

    @classmethod
    def lark(cls, grammar: str) -> "Guide":
        """A text of the grammar, in the syntax of Lark as llguidance reads it; its first rule is `start`."""
        if "%json" in grammar:
            raise _refusal("lark", "%json is not taken in a grammar; give the schema itself, as a schema")
        return cls("lark", grammar)

    @classmethod
    def parse(cls, text: str) -> "Guide":
        """From the command line: json, regex:PATTERN, or a file, .json with a schema or .lark with a grammar."""
        if text == "json":
            return cls.json()
        if text.startswith("regex:"):
            return cls.regex(text.removeprefix("regex:"))
        file = Path(text)
        if file.suffix not in (".json", ".lark"):
            raise ConfigError(f"guide {text!r}: write json, regex:PATTERN, or name a file that ends in .json or .lark.")
        try:
            content = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"guide {text!r}: the file cannot be read ({error}).") from None
        return cls.schema(content) if file.suffix == ".json" else cls.lark(content)

    def grammar(self) -> dict[str, Any]:
        """As llguidance takes it."""
        if self.kind == "lark":
            return {"lark_grammar": self.text}
        if self.kind == "regex":
            from llguidance import regex_to_lark

            return {"lark_grammar": f"start: /{regex_to_lark(self.text, use_ascii='')}/"}
        schema = json.loads(self.text)
        return {"json_schema": {**schema, "x-guidance": BLANKS} if isinstance(schema, dict) else schema}


class Constraint:
    """Where one answer stands in its grammar."""

    def __init__(self, guide: Guide, matcher: Any):
        self.guide, self.matcher, self.taken = guide, matcher, 0

    def follow(self, produced: Listing[int]) -> None:
        """Takes the ids that have come since; an answer only grows."""
        if self.taken < len(produced):
            self.matcher.consume_tokens(list(produced[self.taken :]))
            self.taken = len(produced)

    def copy(self) -> "Constraint":
        """For another answer; only before the first id."""
        return Constraint(self.guide, self.matcher.deep_copy())

    @property
    def failed(self) -> bool:
        """Whether a step took too much, or the vocabulary cannot write what must come."""
        return self.matcher.is_error()

    def error(self) -> ConfigError:
        """Why the answer cannot go on."""
        return _refusal(self.guide.kind, _reason(self.matcher.get_error() or "NoExtension"))


class Grammars:
    """Compiles guides for the answers of one tokenizer, over `vocabulary` ids; the last ones are kept."""

    def __init__(self, tokenizer: TextTokenizer, vocabulary: int, device: torch.device):
        self.tokenizer, self.vocabulary, self.device = tokenizer, vocabulary, device
        self._compiled: OrderedDict[Guide, Constraint] = OrderedDict()
        self._lock = threading.Lock()
        self._ids: Any = None  # llguidance's view of the tokenizer, and what runs many matchers at once
        self._pool: Any = None

    def compile(self, guide: Guide) -> Constraint:
        """The beginning of an answer. Raises ConfigError where the guide cannot be followed, TokenizerError where the
        tokenizer's ids have no bytes of their own, MissingExtra without llguidance."""
        with self._lock:
            if self._ids is None:
                self._ids, self._pool = _view(self.tokenizer, self.vocabulary)
            if found := self._compiled.get(guide):
                self._compiled.move_to_end(guide)
                return found.copy()
        made = self._compile(guide)
        with self._lock:
            self._compiled[guide] = made
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        return made.copy()

    def _compile(self, guide: Guide) -> Constraint:
        grammar = guide.grammar()
        plain = self._matcher(guide, [grammar])
        if not self.tokenizer.spelling.opens:
            return Constraint(guide, plain)
        # Such a text loses the space before its first word. Where the grammar knows no such space it may be there.
        (first,) = self.masks([Constraint(guide, plain)], [[]])
        pieces = self.tokenizer.spelling.pieces
        spaced = any(pieces[i].startswith(b" ") for i in first.nonzero()[:, 0].tolist() if i < len(pieces))
        opening = {"lark_grammar": f"start: OPEN @answer\nOPEN: / {'' if spaced else '?'}/"}
        return Constraint(guide, self._matcher(guide, [opening, {**grammar, "name": "answer"}]))

    def _matcher(self, guide: Guide, grammars: list[dict[str, Any]]) -> Any:
        from llguidance import LLMatcher, LLParserLimits

        text = json.dumps({"grammars": grammars})
        matcher = LLMatcher(self._ids, text, limits=LLParserLimits(**LIMITS), log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error():
            raise _refusal(guide.kind, _reason(matcher.get_error()))
        return matcher

    def masks(self, constraints: Listing[Constraint], drafts: Listing[Listing[int]]) -> Tensor:
        """Which ids may come next (rows, V), boolean: of each constraint a row, and one after each of its `drafts`,
        which stand for what may follow. After a draft that may not come everything may: nobody goes so far.
        """
        places, row = list[tuple[Any, int, list[int]]](), 0
        for constraint, draft in zip(constraints, drafts):
            places.append((constraint.matcher, row, list(draft)))
            row += 1 + len(draft)
        words = torch.full((row, (self.vocabulary + 31) // 32), -1, dtype=torch.int32)
        size = words.shape[1] * 4
        if alone := [(matcher, row) for matcher, row, draft in places if not draft]:
            self._pool.unsafe_compute_mask_ptr(alone, words.data_ptr(), size, len(words))
        if followed := [place for place in places if place[2]]:
            self._pool.unsafe_compute_mask_ptr_with_draft_token(followed, words.data_ptr(), size, len(words))
        bits = words.to(self.device)[:, :, None] >> torch.arange(32, dtype=torch.int32, device=self.device)
        return (bits & 1).bool().flatten(1)[:, : self.vocabulary]


class _Ids:
    """The tokenizer as llguidance asks for one."""

    is_tokenizer_wrapper, bos_token_id = True, None

    def __init__(self, tokenizer: TextTokenizer, vocabulary: int):
        pieces = tokenizer.spelling.pieces
        self.tokens = [*pieces, *[b""] * (vocabulary - len(pieces))]
        self.eos_token_id, self.special_token_ids = next(iter(tokenizer.ends)), sorted(tokenizer.spelling.special)
        self._tokenizer = tokenizer.writing
        self._longest = max(map(len, pieces))
        self._known = {piece: i for i, piece in enumerate(pieces) if i not in tokenizer.spelling.special}

    def __call__(self, text: str) -> list[int]:
        """Ids whose bytes are those of `text`, inside a longer one: the tokenizer's own where they are."""
        wanted = text.encode()
        for part in (text, text.removeprefix(" ")):  # in front of which some put a space
            ids = self._tokenizer.encode(part)
            if b"".join(self.tokens[i] for i in ids) == wanted:
                return ids
        ids, place = [], 0
        while place < len(wanted):
            ends = range(min(place + self._longest, len(wanted)), place, -1)
            end = next((end for end in ends if wanted[place:end] in self._known), None)
            if end is None:
                break
            ids.append(self._known[wanted[place:end]])
            place = end
        return ids


def _view(tokenizer: TextTokenizer, vocabulary: int) -> tuple[Any, Any]:
    try:
        from llguidance import LLExecutor, LLTokenizer
    except ImportError:
        raise MissingExtra("llguidance", "serve") from None
    ids: Any = _Ids(tokenizer, vocabulary)
    return LLTokenizer(ids, eos_token=list(tokenizer.ends)), LLExecutor()


def _refusal(kind: str, reason: str) -> ConfigError:
    name = {"schema": "JSON Schema", "regex": "regular expression", "lark": "grammar"}[kind]
    return ConfigError(f"guide: the {name} cannot be followed: {reason}; correct or simplify it.", "guide")


def _reason(message: str) -> str:
    """The library's first line that says something, in short."""
    if "too many expressions" in message or "too big" in message or "too large" in message or "TooComplex" in message:
        return "it is too large or too intricate"
    if "NoExtension" in message or "doesn't satisfy" in message:
        return "nothing that the model can write fulfils it"
    lines = [line.strip() for line in message.splitlines() if "error:" in line] or message.strip().splitlines()
    return re.sub(r"\s+", " ", lines[-1] if "error:" in lines[-1] else lines[0])[:200].rstrip(".; ")


def _depth(text: str) -> int:
    deepest = depth = 0
    for bracket in re.findall(r"[\[({\])}]", text):
        depth = depth + 1 if bracket in "[({" else max(depth - 1, 0)
        deepest = max(deepest, depth)
    return deepest


def _check_schema(text: str) -> None:
    try:
        schema = json.loads(text, parse_int=_whole)
    except ValueError as error:
        raise _refusal("schema", f"it is not JSON ({error})") from None
    if not isinstance(schema, dict | bool):
        raise _refusal("schema", 'it must be an object, as in {"type": "object"}')
    states = 1
    for divisor in _divisors(schema):
        states = math.lcm(states, divisor)
        if states > REMAINDERS:
            raise _refusal("schema", f"numbers of its multipleOf have a common multiple above {REMAINDERS}")


def _whole(digits: str) -> int:
    """The library keeps numbers as floats, and would write another one than the schema says."""
    if len(digits) > 17 or abs(int(digits)) > 2**53:
        raise _refusal("schema", f"the number {digits[:20]} is beyond 2^53, where not every one can be kept apart")
    return int(digits)


def _divisors(schema: Any) -> list[int]:
    """Of each multipleOf how many remainders an automaton that reads decimal digits keeps apart, at most."""
    if isinstance(schema, list):
        return [divisor for part in schema for divisor in _divisors(part)]
    if not isinstance(schema, dict):
        return []
    found = [divisor for part in schema.values() for divisor in _divisors(part)]
    value = schema.get("multipleOf")
    if isinstance(value, int | float) and math.isfinite(value) and value > 0:
        divisor = Fraction(repr(value)).numerator
        while divisor % 10 == 0:
            divisor //= 10
        found.append(divisor)
    return found
