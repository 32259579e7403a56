"""Runs that are killed, stopped, or shared by several processes, as programs of their own."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.toy import losses

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}


def start(out, launcher=(), **words):
    command = [sys.executable, *launcher, "-m", "tests.training.toy", str(out), json.dumps(words)]
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output


def signal_at(process, step, number):
    for line in process.stdout:
        if line.strip() == str(step):
            process.send_signal(number)
            return


def model(out):
    return load_file(Path(out) / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    finish(start(out, ema=0.9))
    return out


def test_killed_and_resumed_is_the_same_to_the_last_bit(tmp_path, whole):
    """Dropout, moving average, schedule and data all go on as if nothing had happened."""
    for attempt in range(2):
        process = start(tmp_path, ema=0.9, resume=attempt > 0)
        signal_at(process, random.randint(1 + 16 * attempt, 16 + 16 * attempt), signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    finish(start(tmp_path, ema=0.9, resume=True))
    assert losses(tmp_path) == losses(whole)
    expected = model(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model(tmp_path).items())
    assert not list(tmp_path.rglob(".*")), "half-written folders are swept up"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_saves_and_goes_on(tmp_path, whole, number):
    process = start(tmp_path, ema=0.9)
    signal_at(process, 7, number)
    output = finish(process)
    assert "Stopped" in output
    assert "--resume" in output
    done = losses(tmp_path)[-1]["step"]
    assert 7 <= done < 40
    assert (tmp_path / "checkpoints" / f"step-{done:06d}").is_dir()
    assert "Result" in finish(start(tmp_path, ema=0.9, resume=True))
    assert losses(tmp_path) == losses(whole)


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"optimizer": "adafactor", "lr": 0.1, "average_last": 2, "save_every": 4},
        {"optimizer": "muon", "accumulate": 2, "checkpointing": True, "ema": 0.9, "grid": True},
    ],
)
def test_two_processes_train_what_one_does(tmp_path, words):
    words = {"steps": 12, "dropout": 0.0, "evaluate": True, "evaluate_every": 4, **words}
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    finish(start(tmp_path / "one", **words))
    finish(start(tmp_path / "two", launcher, **words))
    ours, theirs = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert len(ours) == len(theirs) == 15
    for line, expected in zip(ours, theirs):
        for name, value in (line.get("evaluation") or line).items():
            assert value == pytest.approx((expected.get("evaluation") or expected)[name], abs=1e-5, rel=1e-5), (
                name,
                line,
            )
    for name, tensor in model(tmp_path / "two").items():
        torch.testing.assert_close(tensor, model(tmp_path / "one")[name], rtol=0, atol=1e-4)


def test_a_run_of_two_processes_resumes_with_one(tmp_path):
    words = {"dropout": 0.0, "save_every": 4}
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    finish(start(tmp_path / "whole", steps=12, schedule="constant", **words))
    finish(start(tmp_path / "part", launcher, steps=8, schedule="constant", **words))
    finish(start(tmp_path / "part", steps=12, schedule="constant", resume=True, **words))
    for line, expected in zip(losses(tmp_path / "part"), losses(tmp_path / "whole"), strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], abs=1e-5)
