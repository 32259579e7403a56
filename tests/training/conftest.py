"""What several files of tests train once."""

import pytest

from polytask.run.train import train_recipe
from tests.training.picture_runs import SMALL, small, write_digits


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Every recipe of a network for pictures trained for two steps, those that others read first."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYTASK_CACHE", str(root / "cache"))
        write_digits(root / "data")
        for name in SMALL:
            train_recipe(small(name, root), root / name, callbacks=[])
    return root


@pytest.fixture(scope="module")
def runs(trained):
    """The same, with their cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYTASK_CACHE", str(trained / "cache"))
        yield trained
