"""The process between polytask and the programs: for each it forks one process with the tests and one with the program.

Neither tests nor programs pass through this process or through each other's: each is read by the process that runs it,
so a program that searches its own memory finds no test. Runs as `python -I -S -B launcher.py [open]`; standard input
carries for each program a frame with the limits, one with the tests and one with the program; standard output a frame
with the result. A frame is its length, four bytes, and that many bytes.
"""

import contextlib
import json
import os
import select
import signal
import struct
import sys
import time
import traceback
import types

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import confine
import remote

sys.path.pop(0)
for _module in ("asyncio", "bisect", "copy", "dataclasses", "datetime", "heapq", "itertools", "random", "typing"):
    __import__(_module)  # once here is cheaper than in every process


def main():
    os.environ.clear()
    walls = "open" not in sys.argv[1:]
    isolated = walls and confine.isolate()
    if isolated:
        first = os.fork()
        if first:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) & 255)
        confine.die_with_parent()
    send(1, {"missing": missing() if walls else [], "namespaces": isolated})
    while header := os.read(0, 4):
        job = json.loads(remote.read_exactly(0, struct.unpack("=I", header)[0]))
        send(1, judge(job["seconds"], job["memory_mb"], walls))


def missing():
    """Which walls this kernel does not give, tried in a process of their own."""
    lacking = []
    for name, attempt in (("seccomp", confine.seccomp), ("landlock", lambda: confine.landlock(confine.readable()))):
        child = os.fork()
        if not child:
            try:
                confine.no_new_privileges()
                attempt()
            except OSError:
                os._exit(1)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            lacking.append(name)
    return lacking


def judge(seconds, memory_mb, walls):
    """Runs the next tests against the next program; {"passed": ..., "reason": ...}."""
    questions, answers, results = os.pipe(), os.pipe(), os.pipe()
    limits = (seconds, memory_mb, walls)
    tests = fork(run_tests, (answers[0], questions[1], results[1]), limits)
    os.close(results[1])
    if os.read(results[0], 1) != b"r":  # the tests are read; the program is next on standard input
        raise SystemExit("the tests could not be read")
    program = fork(run_program, (questions[0], answers[1]), limits)
    for descriptor in (*questions, *answers):
        os.close(descriptor)
    report = collect(results[0], time.monotonic() + seconds)
    os.close(results[0])
    ended = finish(program, 0.0 if report is None or report["passed"] else 0.05)
    finish(tests, 0.0)
    if report is None:
        return {"passed": False, "reason": f"timed out after {seconds:g} s"}
    if ended < 0 and ended != -signal.SIGKILL:
        report["reason"] += f"; it died of {name_of(-ended)}"
    return report


def name_of(number):
    """Real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def fork(run, descriptors, limits):
    """A process that runs `run` with these descriptors and no others; this one goes on."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        for descriptor in range(3, 256):
            if descriptor not in (*descriptors, NULL):
                close(descriptor)
        run(descriptors, limits)
        code = 0
    finally:
        os._exit(code)


def close(descriptor):
    with contextlib.suppress(OSError):
        os.close(descriptor)


def enter(limits):
    """Reads this process's code, gives up standard input and output and closes the walls."""
    source = remote.read_exactly(0, struct.unpack("=I", remote.read_exactly(0, 4))[0]).decode("utf-8", "surrogatepass")
    for descriptor in (0, 1, 2):
        os.dup2(NULL, descriptor)
    os.close(NULL)
    seconds, memory_mb, walls = limits
    if walls:
        confine.confine(seconds, memory_mb)
    else:
        confine.die_with_parent()
        confine.limit(seconds, memory_mb)
    return source


def run_program(descriptors, limits):
    """Runs the program's own lines, then does what the tests ask of what it defined."""
    source = enter(limits)
    end = remote.End(*descriptors, open=True)
    module = types.ModuleType("program")
    sys.modules["program"] = module  # dataclasses and pickle look themselves up
    try:
        exec(compile(source, "<program>", "exec"), module.__dict__)
    except BaseException as error:
        end.send(["ready", f"the program failed: {described(error)}"])
        return
    end.number(module)
    end.send(["ready", ""])
    end.serve()


def run_tests(descriptors, limits):
    """Runs the tests; names that they do not define themselves are looked up in the program."""
    read, write, result = descriptors
    source = enter_tests(result, limits)
    end = remote.End(read, write, open=False)
    reason = ""
    try:
        kind, *failure = end.receive()
        if kind != "ready" or failure != [""]:
            raise remote.Lost(str(failure[0])[:2000] if failure else "the program spoiled the line to its tests")
        names = Names(remote.Remote(end, 0, False))
        exec(compile(source, "<tests>", "exec"), names)
    except SystemExit as error:  # unittest.main ends this way; a program's own exit stays in its process
        reason = "" if error.code in (None, 0, False) else "the tests ended themselves"
    except BaseException as error:
        reason = described(error, source)
    reason = end.lost or reason
    send(result, {"passed": not reason, "reason": reason})


def enter_tests(result, limits):
    source = enter(limits)
    os.write(result, b"r")
    return source


class Names(dict):
    """The tests' global names. The program's take no builtin's place: its `all` is not asked for verdicts."""

    def __init__(self, program):
        super().__init__(__name__="tests", __builtins__=__builtins__)
        self.program = program

    def __missing__(self, name):
        if hasattr(__builtins__, name) or name.startswith("__"):
            raise KeyError(name)
        try:
            return getattr(self.program, name)
        except AttributeError:
            raise KeyError(name) from None


def described(error, source=""):
    """One line on an exception, with the line of the tests that it comes from."""
    if isinstance(error, remote.Lost):
        return str(error)
    text = f"{type(error).__name__}: {str(error)[:500]}".removesuffix(": ")
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == "<tests>" and frame.lineno]
    if not source or not lines:
        return text
    return f"{text} at test line {lines[-1]}: {source.splitlines()[lines[-1] - 1].strip()[:200]}"


def collect(descriptor, deadline):
    """The tests' report, None when the deadline passes first."""
    data = b""
    while len(data) < 4 or len(data) < 4 + struct.unpack("=I", data[:4])[0]:
        ready = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]
        if not ready:
            return None
        part = os.read(descriptor, 1 << 16)
        if not part:
            return {"passed": False, "reason": "the tests died: they crashed or went beyond the limits"}
        data += part
    return json.loads(data[4:])


def finish(child, grace):
    """Ends a process after `grace` seconds, should it not end itself; its exit code, negative for a signal."""
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def send(descriptor, message):
    data = json.dumps(message).encode()
    data = struct.pack("=I", len(data)) + data
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    NULL = os.open("/dev/null", os.O_RDWR)
    main()
