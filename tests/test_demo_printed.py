"""What the demo prints when it has trained: answers to look at, shares beside guessing, and the next commands."""

import random
import re
from contextlib import redirect_stdout
from io import StringIO
from types import SimpleNamespace

import pytest

import polytask as pt
from polytask.blocksworld import TASKS
from polytask.run import demo as demos
from polytask.training.callbacks import Result
from tests.inference.networks import TOKENIZER, network

NETWORK = network()


def train(recipe, out, **_):
    """Stands in for the training."""
    pt.Model(NETWORK, TOKENIZER).save(out / "model")
    (out / "log.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
    return Result(out, out / "model", 1, 2.5, "Trained.")


class Says:
    """Stands in for the model: "answer 0" to the first that is asked, and so on."""

    config = NETWORK.config

    def produce(self, prompts, sampling):
        return [[SimpleNamespace(text=f"[1] answer {number}")] for number in range(len(prompts))]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def printed(out):
    """(the report, the lines on a terminal) of a demo whose judge and baselines say now this and now that."""
    generator = random.Random(0)
    stand_ins = {
        "UNSEEN": 8, "KNOWN": 1, "train_recipe": train, "Model": SimpleNamespace(load=lambda _: Says()),
        "judge": lambda *_: generator.random() < 0.5,
        "baselines": lambda *_: {name: generator.random() for name in ("majority", "copy", "nearest")},
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as written:
        for name, value in stand_ins.items():
            patch.setattr(demos, name, value)
        for name, value in {"COLUMNS": "2000", "FORCE_COLOR": "1", "TERM": "xterm"}.items():
            patch.setenv(name, value)
        patch.delenv("NO_COLOR", raising=False)
        report = demos.demo(out, steps=1)
    return report, written.getvalue().splitlines()


def plain(lines):
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in lines]


@pytest.mark.parametrize("task", TASKS)
def test_three_examples_of_every_task_are_shown(printed, task):
    """Answers that are right are green, others red."""
    report, lines = printed
    shown, asked = plain(lines), report.examples[task]
    start = shown.index(task) + 1
    pairs = [("  " + " ".join(one.asked.split()), ("  → " + one.answer.strip()).rstrip()) for one in asked]
    assert len(pairs) == 3
    assert shown[start : start + 7] == [line for pair in pairs for line in pair] + [""]
    colours = [line[:5] for line in lines[start + 1 : start + 6 : 2]]
    assert colours == ["\x1b[32m" if one.right else "\x1b[31m" for one in asked]


def test_the_shares_stand_beside_those_of_guessing(printed):
    report, lines = printed
    shown = plain(lines)
    start = next(i for i, line in enumerate(shown) if line.split()[:2] == ["task", "model"])
    header = re.split(r"\s{2,}", shown[start].strip())
    for task, line in zip(TASKS, shown[start + 1 :]):
        row = dict(zip(header, line.split(), strict=True))
        figures = {"model": report.accuracy[task], **report.baselines[task]}
        assert {name: row[name] for name in ("task", *figures)} == {
            "task": task, **{name: f"{share:.1%}" for name, share in figures.items()}
        }  # fmt: skip


def test_the_next_commands_are_shown(printed, out):
    text = "\n".join(plain(printed[1]))
    for verb in ("ask", "translate", "eval", "show"):
        assert f"polytask {verb} {out / 'model'}" in text
    assert str(out / "report.html") in text
