"""The interpreter draws what Python draws, and refuses whatever is not a small drawing program."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.blocksworld import examples
from polytask.blocksworld.program import Stroke, picture, prompt, run, write
from polytask.blocksworld.program import tests as asserts
from polytask.blocksworld.scene import CELLS, COLOURS, SHAPES, SIZES
from polytask.errors import TaskError

strokes = st.lists(
    st.builds(
        Stroke,
        st.sampled_from(SIZES),
        st.sampled_from(COLOURS),
        st.sampled_from(SHAPES),
        st.integers(0, CELLS - 1),
        st.sampled_from(["", "row", "column"]),
    ),
    min_size=1,
    max_size=5,
)


def draw(body: str) -> dict:
    return run("def draw(put):\n" + "\n".join(f"    {line}" for line in body.splitlines()))


def in_python(source: str) -> dict:
    """What Python itself makes of a program."""
    names: dict = {}
    exec(source, names)
    found = {}
    names["draw"](lambda what, x, y: found.update({(x, y): what}))
    return found


@settings(max_examples=200, deadline=None)
@given(strokes)
def test_programs_draw_their_strokes_here_and_in_python(given_strokes):
    source = write(given_strokes)
    assert run(source) == in_python(source) == picture(given_strokes)


def test_a_program_and_its_prompt_by_hand():
    parts = [Stroke("small", "red", "circle", 0, "row"), Stroke("large", "blue", "star", 8)]
    source = 'def draw(put):\n    for x in range(3):\n        put("small red circle", x, 0)\n'
    source += '    put("large blue star", 2, 2)'
    assert prompt(parts) == "Draw a row of small red circles at the top and a large blue star at the bottom right."
    assert write(parts) == source
    assert run(source) == {
        (0, 0): "small red circle",
        (1, 0): "small red circle",
        (2, 0): "small red circle",
        (2, 2): "large blue star",
    }


@pytest.mark.parametrize(
    "body",
    [
        'for y in (0, 2):\n    for x in range(0, 3, 2):\n        put("small red circle", x, y)',
        'n = 2\nput("small red circle", n - 1, -n + 2 * 2)',
        'what = "large blue star"\nfor i in range(9):\n    put(what, i % 3, i // 3)',
        'put("small red circle", 0, 0)\nput("large blue star", 0, 0)',
        'for x in range(2, -1, -1):\n    put("small red circle", x, x)',
        "pass",
    ],
)
def test_the_interpreter_agrees_with_python(body):
    source = "def draw(put):\n" + "\n".join(f"    {line}" for line in body.splitlines())
    assert draw(body) == in_python(source)


@pytest.mark.parametrize(
    "body",
    [
        "import os",
        "from os import system",
        'put.__class__("small red circle", 0, 0)',
        "().__class__.__bases__[0].__subclasses__()",
        'open("/etc/passwd")',
        '__import__("os").system("true")',
        'exec("1")',
        'put("small red circle", (lambda: 0)(), 0)',
        'put("small red circle", [0][0], 0)',
        'put("small red circle", x=0, y=0)',
        'put(*("small red circle", 0, 0))',
        'put("small red circle", 0)',
        'put("small red circle", True, 0)',
        'put("small red circle", 0.0, 0)',
        'put("small red circle", 3, 0)',
        'put("small red circle", 0, -1)',
        'put("huge red circle", 0, 0)',
        'put("small red circle", n, 0)',
        "put = 1",
        "range = 1",
        "for put in range(3):\n    pass",
        "while 1:\n    pass",
        "def inner():\n    pass",
        "return 1",
        "global x",
        "n = 9 ** 9",
        "n = 1 // 0",
        "n = 1 % 0",
        'n = "a" * 10000',
        "for x in range(0, 3, 0):\n    pass",
        "for x in range(3):\n    pass\nelse:\n    pass",
        "for x in put:\n    pass",
        "n = 5\nn += 1",
        'f"{put}"',
    ],
)
def test_what_is_no_drawing_is_refused(body):
    with pytest.raises(TaskError, match="Drawing program"):
        draw(body)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "put('small red circle', 0, 0)",
        "def draw(put):\n    pass\nimport os",
        "def paint(put):\n    pass",
        "def draw():\n    pass",
        "def draw(put, more=1):\n    pass",
        "def draw(put=print('x')):\n    pass",
        "def draw(put: print('x')):\n    pass",
        "def draw(put) -> print('x'):\n    pass",
        "@print\ndef draw(put):\n    pass",
        "async def draw(put):\n    pass",
        "def draw(put:\n",
        "def draw(put):\n    n = " + "(" * 500 + "1" + ")" * 500,
        "def draw(put):\n    n = " + "-" * 5000 + "1",
        "def draw(put):\n    pass\x00",
        "def draw(put):" + " " * 10_000 + "pass",
    ],
)
def test_what_is_not_the_one_function_is_refused(source):
    with pytest.raises(TaskError, match="Drawing program"):
        run(source)


@pytest.mark.parametrize(
    "body",
    [
        "for x in range(10000):\n    pass",
        "for x in range(9999):\n    for y in range(9999):\n        pass",
        "n = 2\nfor x in range(900):\n    n = n * n",
    ],
)
def test_long_loops_and_large_numbers_end_soon(body):
    with pytest.raises(TaskError, match=r"steps|beyond"):
        draw(body)


def test_the_tests_of_a_row_pass_and_fail_in_plain_python():
    row = next(examples("code", 1))
    wrong = (
        row["solution"].replace("red", "blue") if "red" in row["solution"] else row["solution"].split("\n    put")[0]
    )
    wrong = wrong if "put(" in wrong.partition("\n")[2] else "def draw(put):\n    pass"
    for source, passes in ((row["solution"], True), (wrong, False)):
        program = "\n".join([source, *row["tests"]])
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
        assert (ended.returncode == 0) is passes


def test_the_tests_say_what_the_picture_is():
    parts = [Stroke("small", "red", "circle", 8)]
    assert asserts(picture(parts))[-1] == "assert picture == {(2, 2): 'small red circle'}"
