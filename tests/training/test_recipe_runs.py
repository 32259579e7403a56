"""Recipes that are trained by the command line, killed and gone on with, or shared by two processes."""

import random
import re
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.recipes import finish, start, write
from tests.training.toy import losses

STEP = re.compile(r"step (\d+)/40 ")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write(tmp_path_factory.mktemp("recipe"))


def model(out):
    return load_file(Path(out) / "model" / "model.safetensors")


def kill_at(process, step):
    for line in process.stderr:
        said = STEP.match(line)
        if said and int(said[1]) == step:
            process.kill()
            process.communicate()
            return


def test_a_killed_recipe_goes_on_to_the_last_bit(recipe, tmp_path):
    """Two sources gone through several times, dropout, batches in parts, moving average and validation."""
    finish(start(recipe, tmp_path / "whole"))
    process = start(recipe, tmp_path / "part")
    kill_at(process, random.randint(6, 32))
    assert process.returncode == -signal.SIGKILL
    saved = max(int(path.name[5:]) for path in (tmp_path / "part" / "checkpoints").glob("step-*"))
    first = STEP.search(finish(start(recipe, tmp_path / "part", "--resume")))
    assert first
    assert int(first[1]) == saved + 1, "it goes on; a run that began again would be the same, too"
    expected = losses(tmp_path / "whole")
    assert losses(tmp_path / "part") == expected
    steps = [line for line in expected if "loss" in line]
    assert {"loss/praise", "loss/places"} < set().union(*steps)
    held = sum(file.stat().st_size for file in recipe.parent.glob("*.jsonl"))
    assert steps[-1]["tokens"] > 3 * held, "the data has fewer tokens than characters, and is gone through repeatedly"
    weights = model(tmp_path / "whole")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model(tmp_path / "part").items())


def test_two_processes_train_a_recipe_as_one_does(recipe, tmp_path):
    """Each begins with an empty cache, which the two fill together; dropout is a process's own, and so left out."""
    changes = ["training.steps=12", "training.dropout=0", "evaluation.every=6"]
    finish(start(recipe, tmp_path / "one", changes=changes, POLYTASK_CACHE=str(tmp_path / "cache-one")))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    finish(
        start(recipe, tmp_path / "two", changes=changes, launcher=launcher, POLYTASK_CACHE=str(tmp_path / "cache-two"))
    )
    ours, theirs = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert len(ours) == len(theirs) == 14
    for line, expected in zip(ours, theirs):
        values, wanted = line.get("evaluation", line), expected.get("evaluation", expected)
        assert values == pytest.approx(wanted, abs=1e-5)
