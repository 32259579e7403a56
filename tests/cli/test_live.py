"""The demo's view of a run: one panel that is redrawn on a terminal, and lines elsewhere."""

import threading
import time
from io import StringIO

import pytest
from rich.console import Console

from polytask.run.live import Spectacle, sample_line, sparkline
from polytask.training.callbacks import Record

SAMPLES = [
    sample_line("translation", True, "A dog runs.", "Ein Hund rennt."),
    sample_line("infilling", False, "A [1] runs\t[/] up\nthe hill.", "[1] cat"),
]


def record(step, loss, steps=10, mfu=None):
    return Record(step, steps, {"loss": loss}, 1e-3, 1.0, step * 1000, 12_345.0, mfu, 61.0)


def console(**words):
    return Console(file=StringIO(), width=100, highlight=False, **words)


@pytest.fixture
def terminal():
    return console(force_terminal=True, color_system="standard")


def last_panel(terminal):
    """What stays on the terminal: from the last title on."""
    return terminal.file.getvalue().rpartition("a title")[2]


def test_the_panel_shows_loss_speed_time_and_samples(terminal):
    view = Spectacle("a title", terminal)
    view.on_start(0, 10)
    for step in range(1, 5):
        view.on_step(step)
        view.on_log(record(step, 5.0 - step, mfu=0.42))
    view.on_evaluate(4, {"validation_loss": 1.25, "translation/bleu": 40.0})
    view.on_samples(4, SAMPLES)
    view.on_end(None)
    panel = last_panel(terminal)
    for words in (
        "loss 1.000",
        "validation 1.250",
        "12.3k tokens/s",
        "4k tokens seen",
        "MFU 42%",
        "1:01 left",
        "40%",
        *"▁█",
    ):
        assert words in panel
    for words in ("translation", "A dog runs.", "Ein Hund rennt.", "infilling", "A [1] runs [/] up the hill."):
        assert words in panel, "and nothing of it is read as rich's markup"
    for mark in ("\x1b[32m✓", "\x1b[32mEin Hund", "\x1b[31m✗", "\x1b[31m[1] cat"):
        assert mark in panel


def test_the_panel_is_redrawn_while_the_run_goes_on(terminal):
    view = Spectacle("a title", terminal)
    view.on_start(5, 10)
    assert appears("50%", terminal), "a run that goes on does not begin at zero"
    view.on_log(record(6, 2.5))
    assert appears("loss 2.500", terminal)
    view.on_event(6, "skipped [a step]")
    view.on_end(None)
    assert "step 6: skipped [a step]\n" in terminal.file.getvalue()
    assert "loss 2.500" in last_panel(terminal)
    assert "MFU" not in last_panel(terminal), "it is unknown on this machine"


def appears(words, terminal):
    end = time.monotonic() + 20
    while words not in terminal.file.getvalue() and time.monotonic() < end:
        time.sleep(0.02)
    return words in last_panel(terminal)


def test_it_ends_cleanly(terminal):
    """The cursor is back, nothing draws any more, and what comes next is printed below."""
    before = set(threading.enumerate())
    view = Spectacle("a title", terminal)
    view.on_start(0, 10)
    (drawing,) = set(threading.enumerate()) - before
    view.on_log(record(1, 2.5))
    view.on_end(None)
    view.on_end(None)
    drawing.join(20)
    assert not drawing.is_alive()
    shown = terminal.file.getvalue()
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    terminal.print("after")
    assert terminal.file.getvalue() == f"{shown}after\n"


def test_elsewhere_it_prints_lines():
    pipe = console()
    view = Spectacle("a title", pipe)
    view.on_start(0, 10)
    for step in range(1, 11):
        view.on_step(step)
        view.on_log(record(step, 2.5))
    view.on_samples(10, SAMPLES)
    view.on_end(None)
    lines = pipe.file.getvalue().splitlines()
    assert [line.split("  ")[:2] for line in lines[:-1]] == [
        [f"step {step}/10", "loss 2.5000"] for step in range(1, 11)
    ]
    assert lines[-1] == "step 10: 1 of 2 samples answered right"
    assert "\x1b" not in pipe.file.getvalue()


def test_a_long_run_prints_some_twenty_lines():
    pipe = console()
    view = Spectacle("a title", pipe)
    view.on_start(0, 1000)
    for step in range(1, 1001):
        view.on_log(record(step, 2.5, steps=1000))
    lines = pipe.file.getvalue().splitlines()
    assert 15 <= len(lines) <= 25
    assert lines[-1].startswith("step 1000/1000")


def test_a_sparkline_is_as_high_as_its_values():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == ["▁▂▃▄▅▆▇█"]
    assert sparkline([-1, 1], 8) == ["▁█"]
    assert sparkline([0, 15], 8, rows=2) == [" █", "▁█"]
    assert sparkline([0, 9, 15], 8, rows=2) == [" ▂█", "▁██"]


def test_a_sparkline_averages_what_has_no_room():
    assert sparkline([1, 3, 5, 7], 2) == sparkline([2, 6], 2)
    assert sparkline([0, 0, 7, 7, 3.5, 3.5], 3) == ["▁█▅"]
    for count in range(1, 60):
        assert len(sparkline(list(range(count)), 7)[0]) == min(count, 7)


def test_a_sparkline_of_nothing_or_of_equals_is_flat():
    assert sparkline([], 9, rows=2) == ["", ""]
    assert sparkline([3.0] * 4, 9, rows=2) == ["    ", "▁▁▁▁"]


def test_a_long_question_shows_its_end():
    task, mark, question, answer = sample_line("answering", False, "x" * 100 + " the end", "a\tb").split("\t")
    assert (task, mark, answer) == ("answering", "✗", "a b")
    assert question == "…" + "x" * 51 + " the end"
