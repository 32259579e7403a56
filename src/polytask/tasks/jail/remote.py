"""Two processes that call each other: the tests hold proxies of what the program defines, and only values cross.

Numbers, strings, lists and the like cross as values; any other object stays where it is and crosses as a number. What
comes in is decoded to values and proxies and nothing else, so a program cannot put an object of its making into the
tests' process: it can answer a question, rightly or wrongly, but not change who asks or how the answer is compared.
"""

import builtins
import collections
import datetime
import decimal
import fractions
import importlib
import json
import operator
import os
import struct
import types
from typing import Any

MOST = 16 << 20  # bytes of one message


class Lost(BaseException):
    """The other process is gone or talks nonsense; not an Exception, so that no test can swallow it."""


class ProgramError(Exception):
    """An exception of the program that has no builtin class."""


class Remote:
    """An object of the other process. It equals no value here, whatever its own class says, nor takes part in sums with
    values: else a program could return an object that equals everything."""

    __slots__ = ("_container", "_end", "_number")

    def __init__(self, end, number, container):
        for name, content in (("_end", end), ("_number", number), ("_container", container)):
            object.__setattr__(self, name, content)

    def __call__(self, *args, **kwargs):
        return self._end.ask("call", self, *args, **kwargs)

    def __getattr__(self, name):
        return self._end.ask("getattr", self, name)

    def __setattr__(self, name, value):
        self._end.ask("setattr", self, name, value)

    def __getitem__(self, key):
        return self._end.ask("getitem", self, key)

    def __setitem__(self, key, value):
        self._end.ask("setitem", self, key, value)

    def __delitem__(self, key):
        self._end.ask("delitem", self, key)

    def __len__(self):
        return self._end.ask("len", self)

    def __iter__(self):
        return self._end.ask("iter", self)

    def __next__(self):
        return self._end.ask("next", self)

    def __bool__(self):
        return self._end.ask("bool", self) is True

    def __str__(self):
        return str(self._end.ask("str", self))

    def __repr__(self):
        return str(self._end.ask("repr", self))

    def __hash__(self):
        return hash(self._number)

    def __eq__(self, other):
        if isinstance(other, Remote):
            return self is other or self._end.ask("eq", self, other) is True
        return self._container and self._end.ask("value", self) == other  # a list's subclass equals a list

    def __ne__(self, other):
        return not self == other

    def __instancecheck__(self, instance):
        return isinstance(instance, Remote) and self._end.ask("isinstance", instance, self) is True

    def __enter__(self):
        return self._end.ask("enter", self)

    def __exit__(self, *_):
        self._end.ask("exit", self)


def _between(name):
    def method(self, other):
        return self._end.ask(name, self, other) if isinstance(other, Remote) else NotImplemented

    return method


for _name in (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "and",
    "or",
    "xor",
    "matmul",
    "lt",
    "le",
    "gt",
    "ge",
):
    setattr(Remote, f"__{_name}__", _between(_name))

OPERATIONS = {
    "call": lambda target, *args, **kwargs: target(*args, **kwargs),
    **{name: getattr(builtins, name) for name in ("getattr", "setattr", "len", "iter", "next", "bool", "str", "repr")},
    **{
        name: getattr(operator, f"__{name}__")
        for name in ("getitem", "setitem", "delitem", "eq", "lt", "le", "gt", "ge")
    },
    **{name: getattr(operator, f"__{name}__") for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")},
    **{name: getattr(operator, f"__{name}__") for name in ("and", "or", "xor", "matmul")},
    "isinstance": isinstance,
    "value": lambda target: next(base(target) for base in CONTAINERS if isinstance(target, base)),
    "enter": lambda target: target.__enter__(),
    "exit": lambda target: target.__exit__(None, None, None),
}


class End:
    """One end of the line. `open` is the program's: it does what it is asked. The tests' end lets only functions be
    called that it handed out itself (a key function, a predicate)."""

    def __init__(self, read, write, open):
        self.read, self.write, self.open = read, write, open
        self.own, self.numbers, self.remotes, self.classes = {}, {}, {}, {}
        self.lost = None  # why, once it is: a test's bare `except:` may swallow Lost itself

    def ask(self, operation, target, *args, **kwargs):
        """Has the other process do something; a list that it changes is changed here too. Raises what it raised."""
        try:
            return self.exchange(operation, target, args, kwargs)
        except Lost as lost:
            self.lost = str(lost)
            raise

    def exchange(self, operation, target, args, kwargs):
        self.send(["?", operation, self.encode([target, *args]), self.encode(kwargs)])
        while True:
            kind, *rest = self.receive()
            if kind == "?":
                self.answer(*rest)
            elif kind == "=":
                for place, content in rest[1]:
                    _replace((kwargs if isinstance(place, str) else args)[place], self.decode(content))
                return self.decode(rest[0])
            else:
                raise self.raised(operation, *rest)

    def answer(self, operation, encoded, named):
        """Does what the other process asks for and sends the result or the exception."""
        try:
            if not self.open and (operation != "call" or encoded[1][0][0] != "yours"):
                raise Lost(
                    "the program reached into an object of the tests, which can lend it values and functions only"
                )
            target, *args = self.decode(encoded)
            kwargs = self.decode(named)
            result = OPERATIONS[operation](target, *args, **kwargs)
            places = [*enumerate(args), *kwargs.items()]
            changed = [[place, self.encode(arg)] for place, arg in places if type(arg) in (list, dict, set, bytearray)]
            reply = ["=", self.encode(result), changed]
        except Exception as error:
            reply = ["!", self.encode(type(error)), _message(error)]
        except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
            reply = ["!", ["error", "RuntimeError"], f"the program ended itself with {type(error).__name__}"]
        self.send(reply)

    def raised(self, operation, encoded, message):
        """Its exception as one here; a StopIteration outside of next() would end a test's own loop."""
        kind = self.decode(encoded)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            kind = ProgramError
        if issubclass(kind, StopIteration | StopAsyncIteration) and operation != "next":
            kind = RuntimeError
        try:
            return kind(str(message))
        except Exception:  # some take more than a message
            return ProgramError(f"{kind.__name__}: {message}")

    def serve(self):
        """Answers for as long as the other process asks."""
        while True:
            kind, *rest = self.receive()
            if kind == "?":
                self.answer(*rest)

    def send(self, message):
        data = json.dumps(message).encode()
        data = struct.pack("=I", len(data)) + data
        try:
            while data:
                data = data[os.write(self.write, data) :]
        except OSError:
            raise Lost("the program ended before the tests did") from None

    def receive(self) -> Any:
        (size,) = struct.unpack("=I", read_exactly(self.read, 4))
        if size > MOST:
            raise Lost("the program sent a value of more than 16 MB")
        try:
            message = json.loads(read_exactly(self.read, size))
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, list) or not message or message[0] not in ("?", "=", "!", "ready"):
            raise Lost("the program spoiled the line to its tests")
        return message

    def encode(self, value: Any) -> Any:
        """Values as JSON, tagged; other objects as a number."""
        kind: Any = type(value)
        if value is None or kind in (bool, str, float):
            return value
        if kind is int:
            return value if abs(value) < 2**63 else ["int", hex(value)]
        if kind in SEQUENCES:
            return [kind.__name__, [self.encode(part) for part in value]]
        if kind in (dict, collections.defaultdict, collections.Counter, collections.OrderedDict):
            return ["dict", [[self.encode(key), self.encode(part)] for key, part in value.items()]]
        if kind in (bytes, bytearray):
            return [kind.__name__, value.decode("latin-1")]
        if kind in (complex, decimal.Decimal, fractions.Fraction):
            return [kind.__name__, str(value)]
        if kind in (datetime.date, datetime.time, datetime.datetime):
            return [kind.__name__, value.isoformat()]
        if kind is range:
            return ["range", [value.start, value.stop, value.step]]
        if kind is Remote:
            return ["yours", value._number]
        return self.encode_object(value)

    def encode_object(self, value: Any) -> Any:
        if isinstance(value, types.ModuleType) and value.__name__ in MODULES:
            return ["module", value.__name__]
        if isinstance(value, type) and issubclass(value, BaseException):
            if getattr(builtins, value.__name__, None) is value:
                return ["error", value.__name__]
            base = next(kind for kind in value.__mro__ if getattr(builtins, kind.__name__, None) is kind)
            return ["errors", self.number(value), value.__name__, base.__name__]
        for base, plain in PLAIN.items():
            if isinstance(value, base):
                return self.encode(plain(value))
        return ["mine", self.number(value), isinstance(value, CONTAINERS)]

    def number(self, value):
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.own)
            self.own[len(self.own)] = value
        return self.numbers[id(value)]

    def decode(self, encoded) -> Any:
        """The value again, or a proxy. Raises Lost for what no honest other end sends."""
        if not isinstance(encoded, list):
            return encoded
        try:
            return self.decode_tagged(*encoded)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError):
            raise Lost("the program spoiled the line to its tests") from None

    def decode_tagged(self, tag, content, *rest):
        if tag in MAKERS:
            return MAKERS[tag]([self.decode(part) for part in content])
        if tag == "dict":
            return {self.decode(key): self.decode(value) for key, value in content}
        if tag in LITERALS:
            return LITERALS[tag](content)
        if tag == "yours":
            return self.own[content]
        if tag == "mine":
            if content not in self.remotes:
                self.remotes[content] = Remote(self, content, rest[0] is True)
            return self.remotes[content]
        if tag == "module":
            if content not in MODULES:
                raise ValueError(content)
            return importlib.import_module(content)
        kind = getattr(builtins, content if tag == "error" else rest[1])
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise ValueError(kind)
        if tag == "error":
            return kind
        if content not in self.classes:
            self.classes[content] = type(rest[0], (kind if issubclass(kind, Exception) else Exception,), {})
        return self.classes[content]


PLAIN = {int: int.__pos__, float: float.__pos__, str: str.__str__, bytes: bytes.__bytes__}  # of their subclasses: enums
CONTAINERS = (tuple, list, dict, set, frozenset, collections.deque)
SEQUENCES = (list, tuple, set, frozenset, collections.deque)
MAKERS = {kind.__name__: kind for kind in SEQUENCES}
LITERALS = {
    "int": lambda text: int(text, 16),
    "bytes": lambda text: text.encode("latin-1"),
    "bytearray": lambda text: bytearray(text.encode("latin-1")),
    "complex": complex,
    "Decimal": decimal.Decimal,
    "Fraction": fractions.Fraction,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "datetime": datetime.datetime.fromisoformat,
    "range": lambda parts: range(*parts),
}
# What a program imports may be used by its tests; any other module stays in its process, for importing runs code.
MODULES = {
    "abc", "array", "bisect", "calendar", "cmath", "collections", "collections.abc", "copy", "dataclasses", "datetime",
    "decimal", "difflib", "enum", "fractions", "functools", "hashlib", "heapq", "inspect", "io", "itertools", "json",
    "math", "numbers", "operator", "os", "random", "re", "secrets", "statistics", "string", "struct", "sys", "textwrap",
    "time", "types", "typing", "unicodedata", "warnings",
}  # fmt: skip


def read_exactly(descriptor, size):
    parts = []
    while size:
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            raise Lost("the program ended before the tests did")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _replace(old, new):
    if type(old) is not type(new):
        raise Lost("the program spoiled the line to its tests")
    if isinstance(old, dict | set):
        old.clear()
        old.update(new)
    else:
        old[:] = new


def _message(error):
    try:
        return str(error)[:2000]
    except Exception:
        return ""
