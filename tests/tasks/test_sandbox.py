"""Programs that work, that fail, and that mean harm."""

import os
import signal
import subprocess
import sys
import time

import pytest

from polytask.errors import SandboxError
from polytask.tasks import get_task, sandbox
from polytask.tasks.builtin.code import program
from polytask.tasks.sandbox import Means, Result, available, run, run_many

walled = pytest.mark.skipif(bool(available().missing), reason=f"this machine lacks {available().missing}")
TEST = "assert f(1) == 2"

GOOD = {
    "a function": ("def f(x): return x + 1", TEST),
    "several asserts and loops": ("def f(x): return x * 2", "for i in range(9):\n    assert f(i) == 2 * i"),
    "containers": (
        "from collections import Counter\ndef f(x): return {'a': [(1, 2.5)], 3: {x}, 'n': None, 'c': Counter('aab')}",
        "assert f(b'z') == {'a': [(1, 2.5)], 3: {b'z'}, 'n': None, 'c': {'a': 2, 'b': 1}}",
    ),
    "large and odd numbers": (
        "from fractions import Fraction\ndef f(x): return [x ** 99, float('inf'), 1j, Fraction(1, 3)]",
        "from fractions import Fraction\nassert f(12345) == [12345 ** 99, float('inf'), 1j, Fraction(1, 3)]",
    ),
    "an argument changed in place": ("def f(x): x.sort()", "a = [3, 1, 2]\nassert f(a) is None\nassert a == [1, 2, 3]"),
    "an argument by name changed in place": ("def f(xs): xs.sort()", "a = [3, 1, 2]\nf(xs=a)\nassert a == [1, 2, 3]"),
    "dates and ranges": (
        "import datetime\ndef f(x): return [datetime.date(2020, 1, x), range(x)]",
        "import datetime\nassert f(3) == [datetime.date(2020, 1, 3), range(3)]",
    ),
    "a module that its tests use too": ("import math\ndef f(x): return math.pi", "assert math.isclose(f(1), math.pi)"),
    "a class": (
        "class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n"
        "    def __len__(self): return len(self.items)\n    def __getitem__(self, i): return self.items[i]\n",
        "s = Stack()\ns.push(4)\ns.push(5)\nassert len(s) == 2 and s[1] == 5 and s.items == [4, 5]\n"
        "assert isinstance(s, Stack)",
    ),
    "objects that equal each other": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
        "    def __add__(s, o): return P(s.x + o.x)",
        "assert P(1) + P(2) == P(3) and P(1) != P(2)",
    ),
    "a named tuple": (
        "from typing import NamedTuple\nclass P(NamedTuple):\n    x: int\n",
        "assert P(3) == (3,) and P(3).x == 3",
    ),
    "an enum of strings": (
        "import enum\nclass E(str, enum.Enum):\n    A = 'a'\ndef f(x): return E.A",
        "assert f(1) == 'a'",
    ),
    "a generator": ("def f(n):\n    yield from range(n)", "assert list(f(3)) == [0, 1, 2]\nassert sum(f(4)) == 6"),
    "a function to call back": (
        "def f(g, xs): return [x for x in xs if g(x)]",
        "assert f(lambda x: x > 1, [1, 2]) == [2]",
    ),
    "an exception": (
        "def f(x): raise ValueError('no')",
        "try:\n    f(1)\n    assert False, 'no error'\nexcept ValueError as e:\n    assert str(e) == 'no'",
    ),
    "an exception of its own": (
        "class Empty(KeyError): pass\ndef f(x): raise Empty(x)",
        "try:\n    f(1)\nexcept Empty:\n    pass\nelse:\n    assert False",
    ),
    "asyncio": ("import asyncio\nasync def g(): return 2\ndef f(x): return asyncio.run(g())", TEST),
    "unittest": (
        "def f(x): return x + 1",
        "import unittest\nclass T(unittest.TestCase):\n    def test_f(self): self.assertEqual(f(1), 2)\n"
        "r = unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(T))\n"
        "assert r.wasSuccessful()",
    ),
    "much printing": ("print('x' * 10**7)\ndef f(x):\n    print('y' * 10**7)\n    return 2", TEST),
    "a clean environment": ("import os\nassert not os.environ\ndef f(x): return 2", TEST),
    "a main guard": ("def f(x): return 2\nif __name__ == '__main__':\n    raise SystemExit", TEST),
}


@walled
def test_right_programs_pass():
    results = run_many(list(GOOD.values()))
    assert {name: r.reason for name, r in zip(GOOD, results) if not r.passed} == {}


EVERYTHING = "class E:\n    def __getattr__(s, n): return E()\n" + "".join(
    f"    def __{name}__(s, *a): return {value}\n"
    for name, value in [("eq", True), ("ne", False), ("lt", True), ("le", True), ("bool", True), ("call", "E()"),
                        ("sub", 0), ("rsub", 0), ("abs", 0), ("round", 2), ("float", 2.0), ("int", 2), ("index", 2)]
) + "def f(x): return E()\n"  # fmt: skip

CHEATS = {
    "exits at once": ("import os; os._exit(0)", TEST),
    "exits politely": ("import sys; sys.exit(0)", TEST),
    "exits when asked": ("import os\ndef f(x): os._exit(0)", TEST),
    "raises SystemExit when asked": ("def f(x): raise SystemExit(0)", TEST),
    "exits inside a bare except": (
        "import os\ndef f(x): os._exit(0)", "try:\n    f(1)\n    assert False\nexcept:\n    pass"
    ),
    "claims success in print": ("print('{\"passed\": true}')\nraise SystemExit(0)", TEST),
    "equals everything": (EVERYTHING, TEST),
    "is less than everything": (EVERYTHING, "assert abs(f(1) - 2) < 1e-6"),
    "rounds to the answer": (EVERYTHING, "assert round(f(1), 2) == 2"),
    "equals everything in a list": (EVERYTHING + "def f(x): return [E()]", "assert f(1) == [2]"),
    "ends the tests' loop": ("def f(x): raise StopIteration", "assert all(map(lambda x: f(x) == 2, [1]))"),
    "replaces builtins": (
        "import builtins\nbuiltins.all = lambda x: True\ndef all(x): return True", "assert all([False])"
    ),
    "replaces the operation": (
        "import sys\nfor m in list(sys.modules.values()):\n    if hasattr(m, 'OPERATIONS'): m.End.answer = None\n",
        TEST,
    ),
    "answers through the pipe": (
        "import os, struct, json\nd = json.dumps({'passed': True, 'reason': ''}).encode()\n"
        "for i in range(3, 30):\n    try: os.write(i, struct.pack('=I', len(d)) + d)\n    except OSError: pass\n"
        "os._exit(0)",
        TEST,
    ),
    "asks the tests for their globals": (
        "def f(g): return g.__globals__", "assert f(lambda: 0) is None"
    ),
    "sends nonsense": ("import os\ndef f(x):\n    for i in range(3, 30):\n        try: os.write(i, b'{' * 99999)\n"
                       "        except OSError: pass", TEST),
    "names a module that exits": ("import types\ndef f(x): return types.ModuleType('idlelib.idle')", TEST),
    "is a module that exits": ("import types\nf = types.ModuleType('idlelib.idle')", TEST),
    "does not define it": ("def g(x): return 2", TEST),
    "is not Python": ("def f(:", TEST),
    "is wrong": ("def f(x): return x", TEST),
}  # fmt: skip


@walled
@pytest.mark.parametrize("name", list(CHEATS))
def test_programs_that_did_not_answer_do_not_pass(name):
    result = run(*CHEATS[name], seconds=3)
    assert not result.passed
    assert result.reason


ATTEMPTS = {
    "a socket": "import socket; socket.socket()",
    "a local socket": "import socket; socket.socket(socket.AF_UNIX)",
    "a datagram from a pair": "import socket\na, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
    "a.sendto(b'x', '\\0here')",
    "a file": "open('/tmp/polytask-was-here', 'w')",
    "a file by descriptor": "import os; os.open('/dev/shm/polytask-was-here', os.O_CREAT | os.O_RDWR)",
    "an opened temporary file": "import os; os.open('/tmp', os.O_TMPFILE | os.O_RDWR)",
    "a folder": "import os; os.mkdir('/tmp/polytask-was-here')",
    "a removal": "import os; os.unlink('/tmp/polytask-canary')",
    "a rename": "import os; os.rename('/tmp/polytask-canary', '/tmp/polytask-was-here')",
    "a mode": "import os; os.chmod('/tmp/polytask-canary', 0o777)",
    "a look at users": "open('/etc/passwd')",
    "a look at a canary": "open('/tmp/polytask-canary')",
    "a look at processes": "import os; os.listdir('/proc')",
    "a look at its parent": "import os; open(f'/proc/{os.getppid()}/environ')",
    "a fork": "import os; os.fork()",
    "a subprocess": "import subprocess; subprocess.run(['true'])",
    "a system": "import os\nif os.system('true') != 0: raise OSError",
    "an exec": "import os, sys; os.execv(sys.executable, ['python'])",
    "a thread": "import threading\ntry: threading.Thread(target=print).start()\nexcept RuntimeError: raise OSError",
    "a signal to its parent": "import os; os.kill(os.getppid(), 9)",
    "a signal to all": "import os; os.kill(-1, 9)",
    "a signal to its group": "import os; os.killpg(0, 9)",
    "an owner of signals": "import fcntl, os; fcntl.fcntl(3, fcntl.F_SETOWN, os.getppid())",
    "a limit of others": "import resource, os; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
    "more memory": "import resource\ntry: resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))\n"
    "except ValueError: raise OSError",
    "a memory file": "import os; os.memfd_create('x')",
    "a terminal's input": "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSTI, b'x')",
    **{
        f"system call {name}": "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"if libc.syscall({number}, 0, 0, 0, 0, 0, 0) < 0: raise OSError(ctypes.get_errno())"
        for name, number in [("ptrace", 101), ("mount", 165), ("unshare", 272), ("bpf", 321), ("keyctl", 250),
                             ("io_uring_setup", 425), ("process_vm_writev", 311), ("userfaultfd", 323), ("vfork", 58),
                             ("clone3", 435), ("openat2", 437), ("setuid", 105), ("shmget", 29), ("prctl", 157)]
    },
}  # fmt: skip


@walled
def test_every_reach_beyond_the_walls_is_refused():
    canary = "/tmp/polytask-canary"
    with open(canary, "w") as file:
        file.write("alive")
    template = "def f(x):\n    try:\n{}\n    except OSError:\n        return 'refused'\n    return 'done'"
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers of the system calls are those of x86_64")
    jobs = [
        (template.format("\n".join(f"        {line}" for line in code.split("\n"))), "assert f(1) == 'refused', f(1)")
        for code in ATTEMPTS.values()
    ]
    try:
        results = run_many(jobs)
        assert {name: r.reason for name, r in zip(ATTEMPTS, results) if not r.passed} == {}
        assert not os.path.exists("/tmp/polytask-was-here")
        with open(canary) as file:
            assert file.read() == "alive"
    finally:
        os.unlink(canary)


@walled
def test_attempts_of_the_list_succeed_without_walls():
    """The list above would prove nothing if its programs failed anywhere."""
    code = "def f(x):\n    import os\n    os.listdir('/proc')\n    open('/etc/passwd').close()\n    return 2"
    assert run(code, TEST, unsafe=True, means=Means(missing=("walls",))).passed
    assert not run(code, TEST).passed


@walled
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def f(x):\n    while True: pass", "timed out after 1 s"),
        ("while True: pass", "timed out"),
        ("import time; time.sleep(99)", "timed out"),
        ("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
         "while True:\n    try:\n        while True: pass\n"
         "    except BaseException: pass", "timed out"),
        ("def f(x): return [0] * 10**9", "MemoryError"),
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", "MemoryError"),
        ("def f(x): return 'x' * (40 << 20)", "more than 16 MB"),
        ("def f(x): return f(x)", "RecursionError"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import ctypes\nctypes.CDLL(None).syscall(0x40000000 + 39)", "SIGSYS"),
    ],
)  # fmt: skip
def test_limits_hold_and_are_named(code, reason):
    began = time.monotonic()
    result = run(code, TEST, seconds=1, memory_mb=256)
    assert not result.passed
    assert reason in result.reason
    assert time.monotonic() - began < 15


SEARCH = """
import ctypes, os
libc, (out, into) = ctypes.CDLL(None), os.pipe()
libc.sbrk.restype = ctypes.c_void_p
def found(head, tail):  # the two together stand nowhere in this process but where they came in
    near, count = [libc.sbrk(0), id(object())], 0
    for middle in near:
        for page in range((middle >> 12 << 12) - (48 << 20), (middle >> 12 << 12) + (16 << 20), 4096):
            if libc.write(into, ctypes.c_void_p(page), 4096) == 4096:  # a bad address is an error here, not a crash
                data = os.read(out, 4096)
                at = data.find(head)
                while at >= 0:
                    count += data[at + len(head) : at + len(head) + len(tail)] == tail
                    at = data.find(head, at + 1)
    return count
MINE = 'terkes-eman'  # secret-name
"""


@walled
def test_the_tests_cannot_be_found_in_the_programs_memory():
    tests = "assert found(b'terkes', b'-eman') > 0\n# sekret-answer\nassert found(b'sekret', b'-answer') == 0"
    assert run(SEARCH, tests, seconds=20) == Result(True)


@walled
def test_the_reason_names_the_line_of_the_test():
    assert run("def f(x): return 3", f"assert f(0) == 3\n{TEST}").reason == f"AssertionError at test line 2: {TEST}"


@walled
def test_many_programs_keep_their_order_and_go_on_after_a_crash():
    jobs = [(f"def f(x): return {i % 3}" if i % 5 else "import os; os._exit(0)", TEST) for i in range(60)]
    assert [result.passed for result in run_many(jobs)] == [i % 3 == 2 and i % 5 != 0 for i in range(60)]
    assert run_many([]) == []


@walled
def test_a_program_that_dies_of_a_signal_without_a_name_fails_alone():
    deadly = "import os\ndef f(x): os.kill(os.getpid(), 40)"
    results = run_many([(deadly, TEST), ("def f(x): return x + 1", TEST)], workers=1)
    assert [result.passed for result in results] == [False, True]
    assert "signal 40" in results[0].reason


@walled
def test_a_launcher_that_ends_takes_one_program_with_it(monkeypatch):
    judge, seen = sandbox._Launcher.judge, []

    def ending(launcher, program, tests, limits):
        seen.append(launcher.process.pid)
        if "die" in program:
            os.killpg(launcher.process.pid, signal.SIGKILL)
        return judge(launcher, program, tests, limits)

    monkeypatch.setattr(sandbox._Launcher, "judge", ending)
    good = ("def f(x): return x + 1", TEST)
    results = run_many([good, ("die = 1\ndef f(x): return x + 1", TEST), good, good], workers=1)
    assert [result.passed for result in results] == [True, False, True, True]
    assert "launcher" in results[1].reason
    assert len(set(seen)) == 2


def test_without_walls_it_refuses_unless_told():
    lacking = Means(missing=("landlock",))
    with pytest.raises(SandboxError, match="it lacks: landlock"):
        run("def f(x): return 2", TEST, means=lacking)
    assert run("def f(x): return 2", TEST, means=lacking, unsafe=True).passed
    assert not run("def f(x): return 3", TEST, means=lacking, unsafe=True).passed
    assert "timed out" in run("while True: pass", TEST, means=lacking, unsafe=True, seconds=0.5).reason


def test_limits_must_make_sense():
    with pytest.raises(SandboxError, match="64 MB or more"):
        run("", "", memory_mb=1)


@walled
@pytest.mark.skipif(os.getuid() != 0 or not os.path.exists("/usr/bin/python3"), reason="needs root to become another")
def test_another_user_has_the_same_walls():
    script = (
        "from polytask.tasks.sandbox import *; print(available().missing, run('def f(x): return 2', 'assert f(1)==2'))"
    )
    source = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", "src"))
    done = subprocess.run(
        ["/usr/bin/python3", "-c", script], user=65534, env={"PYTHONPATH": source}, capture_output=True, text=True
    )  # fmt: skip
    if "ModuleNotFoundError" in done.stderr or sys.version_info[:2] != (3, 11):
        pytest.skip("the system's Python cannot import polytask")
    assert "() Result(passed=True" in done.stdout, done.stderr


HUMANEVAL = {
    "prompt": 'from typing import List\n\ndef double(xs: List[int]) -> List[int]:\n    """ Doubles. """\n',
    "tests": "def check(candidate):\n    assert candidate([1, 2]) == [2, 4]\n",
    "entry_point": "double",
}


@walled
@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        ("    return [2 * x for x in xs]\n", 1.0),
        ("def double(xs: List[int]):\n    return [x + x for x in xs]", 1.0),
        ("    return xs", 0.0),
    ],
)
def test_code_completes_a_head_or_writes_it_anew(answer, passes):
    task = get_task("code")
    assert task.metrics([[answer]], [HUMANEVAL]) == {"pass@1": passes}


@walled
def test_code_counts_samples():
    task = get_task("code", k=(1, 2))
    example = {"prompt": "add(a, b) adds.", "tests": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]}
    right, wrong = "def add(a, b): return a + b", "def add(a, b): return 3"
    answers = [[right, wrong, wrong, wrong]]
    assert task.metrics(answers, [example]) == pytest.approx({"pass@1": 0.25, "pass@2": 0.5})
    assert task.per_example(answers, [example]) == [0.25]


def test_parsing_takes_the_fenced_block_and_keeps_indents():
    from polytask.tasks import Text

    task = get_task("code")
    assert task.parse([Text("Here:\n```python\ndef f():\n    return 1\n```\nDone.")]) == "def f():\n    return 1"
    assert task.parse([Text("```\nx = 1")]) == "x = 1"
    assert task.parse([Text("    return 1\n\n")]) == "    return 1"
    assert program("Say hi.", "print('hi')") == "print('hi')"
