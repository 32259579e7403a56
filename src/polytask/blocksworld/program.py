"""Drawing programs: a function `draw(put)` that puts shapes on the grid, and an interpreter that runs it safely.

    def draw(put):
        put("large blue star", 1, 1)          what, column from the left, row from the top; both from 0
        for x in range(3):
            put("small red circle", x, 0)

The programs are Python, so tests can run them anywhere. The interpreter here walks the syntax tree and knows no more
than `put`, `for` over `range` or a tuple, assignment of values to names, and + - * // % of whole numbers: there is
nothing to escape through, and the number of steps and the size of numbers are limited.
"""

import ast
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from polytask.blocksworld.grammar import plural
from polytask.blocksworld.language import PLACES, listed
from polytask.blocksworld.scene import COLOURS, GRID, SHAPES, SIZES
from polytask.errors import TaskError

Picture = dict[tuple[int, int], str]

STEPS = 1000  # statements that one program may run
LARGEST = 10_000  # absolute value of a number
LONGEST = 10_000  # characters of a program
NAMES = frozenset(f"{size} {colour} {shape}" for size in SIZES for colour in COLOURS for shape in SHAPES)
ROWS = ("at the top", "in the middle", "at the bottom")
COLUMNS = ("on the left", "in the middle", "on the right")

_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class Stroke(NamedTuple):
    """What one part of a program draws: one shape, or a whole "row" or "column" of the same shape."""

    size: str
    colour: str
    shape: str
    cell: int
    line: str = ""


def prompt(strokes: Sequence[Stroke]) -> str:
    """ "Draw a small red circle at the top left and a row of large blue stars at the bottom." """
    return f"Draw {listed([_told(stroke) for stroke in strokes])}."


def _told(stroke: Stroke) -> str:
    size, colour, shape, cell, line = stroke
    if not line:
        return f"a {size} {colour} {shape} {PLACES['en'][cell]}"
    place = ROWS[cell // GRID] if line == "row" else COLUMNS[cell % GRID]
    return f"a {line} of {plural('en', size, colour, shape)} {place}"


def write(strokes: Sequence[Stroke]) -> str:
    """The program that draws the strokes, a line or a loop each."""
    lines = ["def draw(put):"]
    for size, colour, shape, cell, line in strokes:
        row, column = divmod(cell, GRID)
        name = f"{size} {colour} {shape}"
        if line == "row":
            lines += [f"    for x in range({GRID}):", f'        put("{name}", x, {row})']
        elif line == "column":
            lines += [f"    for y in range({GRID}):", f'        put("{name}", {column}, y)']
        else:
            lines.append(f'    put("{name}", {column}, {row})')
    return "\n".join(lines)


def picture(strokes: Iterable[Stroke]) -> Picture:
    """(column, row) -> what the strokes draw there."""
    drawn: Picture = {}
    for size, colour, shape, cell, line in strokes:
        row, column = divmod(cell, GRID)
        for i in range(GRID if line else 1):
            place = (i if line == "row" else column, i if line == "column" else row)
            drawn[place] = f"{size} {colour} {shape}"
    return drawn


def tests(expected: Picture) -> list[str]:
    """Asserts for a sandbox that runs the program: they lend it a `put` that keeps what is put."""
    return [
        "picture = {}",
        "draw(lambda what, x, y: picture.update({(x, y): what}))",
        f"assert picture == {expected!r}",
    ]


def run(source: str) -> Picture:
    """(column, row) -> what stands there after the program; what is put later covers what stood there.

    Raises TaskError where it is not such a program, puts something outside the grid, or takes too many steps.
    """
    if len(source) > LONGEST:
        raise TaskError(f"Drawing program: it has {len(source)} characters; at most {LONGEST} are run.")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TaskError(f"Drawing program: this is not Python: {error}.") from None
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef) or tree.body[0].name != "draw":
        raise TaskError("Drawing program: it must be one function, 'def draw(put):', and nothing else.")
    function = tree.body[0]
    if ast.dump(function.args) != _ARGUMENTS or function.decorator_list or function.returns:
        raise TaskError("Drawing program: 'draw' takes one argument, 'put', and neither decorators nor annotations.")
    interpreter = _Interpreter()
    try:
        interpreter.block(function.body)
    except RecursionError:
        raise TaskError("Drawing program: it is nested too deeply.") from None
    return interpreter.picture


_ARGUMENTS = ast.dump(ast.parse("def draw(put): pass").body[0].args)  # type: ignore[attr-defined]


class _Interpreter:
    def __init__(self) -> None:
        self.picture: Picture = {}
        self.names: dict[str, Any] = {}
        self.steps = 0

    def block(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        self.step(node)
        match node:
            case ast.Expr(value=ast.Call() as call):
                self.put(call)
            case ast.Pass():
                pass
            case ast.Assign(targets=[ast.Name() as name], value=value):
                self.assign(name, self.value(value))
            case ast.For(target=ast.Name() as name, iter=values, body=body, orelse=[]):
                for value in self.values(values):
                    self.step(node)
                    self.assign(name, value)
                    self.block(body)
            case _:
                raise refused(node, "only put(...), for, assignments and pass are")

    def step(self, node: ast.AST) -> None:
        self.steps += 1
        if self.steps > STEPS:
            raise TaskError(f"Drawing program, line {_line(node)}: it takes more than {STEPS} steps; draw with fewer.")

    def assign(self, name: ast.Name, value: Any) -> None:
        if name.id in ("put", "range"):
            raise refused(name, f"'{name.id}' keeps its meaning; other names are")
        self.names[name.id] = value

    def put(self, call: ast.Call) -> None:
        if not isinstance(call.func, ast.Name) or call.func.id != "put" or call.keywords or len(call.args) != 3:
            raise refused(call, 'calls like put("small red circle", 0, 2) are')
        what, x, y = (self.value(argument) for argument in call.args)
        if not isinstance(what, str) or what not in NAMES:
            raise TaskError(f"Drawing program, line {_line(call)}: {what!r} is no shape like 'small red circle'.")
        if not all(isinstance(place, int) and 0 <= place < GRID for place in (x, y)):
            raise TaskError(f"Drawing program, line {_line(call)}: ({x!r}, {y!r}) is outside the {GRID}x{GRID} grid.")
        self.picture[x, y] = what

    def values(self, node: ast.expr) -> Iterable[Any]:
        match node:
            case ast.Call(func=ast.Name(id="range"), args=[_, *rest] as bounds, keywords=[]) if len(rest) < 3:
                numbers = [self.number(bound) for bound in bounds]
                if len(numbers) == 3 and numbers[2] == 0:
                    raise refused(node, "range with a step other than 0 is")
                return range(*numbers)
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                return [self.value(part) for part in parts]
        raise refused(node, "loops over range(...) or (a, b, c) are")

    def number(self, node: ast.expr) -> int:
        value = self.value(node)
        if not isinstance(value, int):
            raise refused(node, "whole numbers are")
        return value

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=str() | int() as value) if not isinstance(value, bool):
                return self.limited(node, value)
            case ast.Name(id=name) if name in self.names:
                return self.names[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.number(operand)
            case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATORS:
                one, other = self.number(left), self.number(right)
                if other == 0 and isinstance(operation, ast.FloorDiv | ast.Mod):
                    raise refused(node, "division by numbers other than 0 is")
                return self.limited(node, _OPERATORS[type(operation)](one, other))
        raise refused(node, "whole numbers, texts, names given a value, and + - * // % are")

    def limited(self, node: ast.expr, value: Any) -> Any:
        if isinstance(value, int) and abs(value) > LARGEST:
            raise TaskError(f"Drawing program, line {_line(node)}: a number is beyond {LARGEST}; the grid is small.")
        return value


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 1)


def refused(node: ast.AST, known: str) -> TaskError:
    """The error for what the interpreter does not know; `known` says what it does, up to "understood"."""
    what = ast.unparse(node)[:60]
    return TaskError(f"Drawing program, line {_line(node)}: '{what}' is not understood; {known} understood.")
