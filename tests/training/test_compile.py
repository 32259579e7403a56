"""Compiled training is the same training; a machine that cannot compile says so."""

import os
import shutil

import pytest

from tests.training.recipes import finish, start, write
from tests.training.toy import losses

# Another initialization than this system's own, which begins with layers that add nothing.
CHANGES = ["model.depth=1", "model.initialization=gpt", "training.steps=3", "training.dropout=0", "evaluation.every=0"]
COMPILER = os.environ.get("CXX", "g++")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write(tmp_path_factory.mktemp("recipe"))


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"torch compiles with {COMPILER}, which is not here")
def test_a_compiled_network_has_the_same_losses(recipe, tmp_path):
    finish(start(recipe, tmp_path / "eager", changes=CHANGES))
    kept = tmp_path / "kept"
    changes = [*CHANGES, "training.compile=true"]
    finish(start(recipe, tmp_path / "compiled", changes=changes, TORCHINDUCTOR_CACHE_DIR=str(kept)))
    assert list(kept.rglob("*.cpp")), "nothing was compiled"
    ours, theirs = losses(tmp_path / "compiled"), losses(tmp_path / "eager")
    assert len(ours) == len(theirs) == 3
    for line, expected in zip(ours, theirs):
        assert line == pytest.approx(expected, abs=1e-4)


def test_without_a_compiler_one_sentence_says_so(recipe, tmp_path):
    changes = [*CHANGES, "training.compile=true"]
    out, kept = tmp_path / "out", str(tmp_path / "kept")
    process = start(recipe, out, changes=changes, CXX="/nonexistent/c++", TORCHINDUCTOR_CACHE_DIR=kept)
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 2
    assert "Traceback" not in errors
    (sentence,) = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert "compiler" in sentence
    assert errors.splitlines()[-1] == sentence
