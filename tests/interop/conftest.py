import shutil
from pathlib import Path

import pytest

from tests.interop.families import case


@pytest.fixture
def copy(tmp_path):
    """A copy of a case's folder, to be broken."""

    def make(name: str = "llama") -> Path:
        return Path(shutil.copytree(case(name).folder, tmp_path / name))

    return make
