"""What the calling process holds open stays out of a program's reach, even what it lets children inherit."""

import os
import subprocess
import sys

import pytest

from polytask.tasks.sandbox import Means, available, run

WALLS = [
    pytest.param(
        {}, id="walls", marks=pytest.mark.skipif(bool(available().missing), reason=f"lacks {available().missing}")
    ),
    pytest.param({"unsafe": True, "means": Means(missing=("walls",))}, id="unsafe"),
]
SECRET = "what nobody may read"

# A pipe cannot be rewound, so the line to the tests, on which a program would wait for ever, is not read.
READING = """
import os
found = []
for number in range(1024):
    try:
        os.lseek(number, 0, os.SEEK_SET)
        found.append(os.read(number, 64).decode())
    except OSError:
        pass
"""
WRITING = r"""
import os
for number in range(1024):
    try:
        os.write(number, b'\x01\0\0\0x')  # on the line to its tests a frame, of nonsense
    except OSError:
        pass
"""


@pytest.fixture
def held(tmp_path):
    """A file that is open for reading and writing and that children inherit; closed by the end of the test."""
    file = tmp_path / "held"
    file.write_text(SECRET)
    descriptor = os.open(file, os.O_RDWR)
    os.set_inheritable(descriptor, True)
    yield descriptor, file
    os.close(descriptor)


@pytest.fixture
def pipe():
    """A pipe whose writing end children inherit; unlike a file it knows no limit of size."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    os.set_blocking(reading, False)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def let_loose(program, *descriptors):
    """The program in a process that does inherit the descriptors."""
    done = subprocess.run([sys.executable, "-c", program], pass_fds=descriptors, capture_output=True, text=True)
    return done.stdout


def test_the_programs_find_what_is_open_where_nothing_stops_them(held, pipe):
    """The tests below would prove nothing of programs that find nothing anywhere."""
    descriptor, file = held
    assert SECRET in let_loose(READING + "print(found)", descriptor)
    let_loose(WRITING, descriptor, pipe[1])
    assert file.read_text().endswith("x")
    assert os.read(pipe[0], 8).endswith(b"x")


@pytest.mark.parametrize("means", WALLS)
def test_no_open_file_of_the_caller_is_read(held, means):
    result = run(READING, f"assert not any({SECRET!r} in text for text in found), found", **means)
    assert result.passed, result.reason


@pytest.mark.parametrize("means", WALLS)
def test_nothing_open_in_the_caller_is_written(held, pipe, means):
    result = run(WRITING, "", **means)
    assert "spoiled the line to its tests" in result.reason, "it wrote to whatever it had"
    assert held[1].read_text() == SECRET
    with pytest.raises(BlockingIOError):
        os.read(pipe[0], 8)
