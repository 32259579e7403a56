"""The short form of benchmarks/soak.py: no block leaks and every accepted request ends; memory takes longer to tell."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture
def soak():
    path = Path(__file__).parents[2] / "benchmarks" / "soak.py"
    spec = importlib.util.spec_from_file_location("soak", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ten_seconds_of_all_kinds_of_clients(soak, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "src"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = soak.run(10, 16)
    for name in ("still running", "leaked blocks", "never ended", "failures of the server", "exit code"):
        assert found[name] == 0, found
    assert found["requests"] > 16, found
