"""Replicas under Ray Serve: two of them, one killed under load."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polytask.cli.main import app as cli
from polytask.serving.replicas import Replicas

ROOT = Path(__file__).parents[2]


def said(*args) -> str:
    done = CliRunner().invoke(cli, ["serve", *map(str, args), "--port", "0"])
    assert done.exit_code == 2, done.output
    return " ".join(done.stderr.split())


def test_what_it_says_where_it_cannot_start(monkeypatch):
    assert "--max-replicas 1 is below --replicas 2" in said("anywhere", "--replicas", 2, "--max-replicas", 1)
    assert "--replicas 0 must be 1 or more." in said("anywhere", "--replicas", 0)
    for option in ("--target-requests", "--replica-cpus", "--replica-gpus"):
        for value in ("nan", "inf", -1):
            assert f"{option} {float(value)} must be" in said("anywhere", "--replicas", 1, option, value)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'polytask[ray]'" in said("anywhere", "--replicas", 2)


def test_their_number_goes_to_ray_serve_in_its_own_words():
    assert Replicas(3).scale() == {"num_replicas": 3}
    bounds = Replicas(2, 5, 6.0).scale()["autoscaling_config"]
    found = pytest.importorskip("ray.serve.config").AutoscalingConfig(**bounds)
    assert (found.min_replicas, found.initial_replicas, found.max_replicas) == (2, 2, 5)
    assert found.get_target_ongoing_requests() == 6.0


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed; pip install 'polytask[ray]'")
@pytest.mark.timeout(900)
def test_what_had_not_begun_survives_a_killed_replica(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, ROOT / "benchmarks" / "replicas.py", "--quick", "--out", tmp_path]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, timeout=800)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "replicas.json").read_text())
    became = found["became"]
    assert became["answered"] == 12
    broken = became.get("ended by an error server_error replica_lost within its text", 0)
    assert became.get("streamed whole", 0) + broken == 12
    assert found["again"] + broken >= 1, "the replica was killed when it had ended its work"
    assert found["seconds"] < 300
    assert all(ip in ("127.0.0.1", "::1", "::ffff:127.0.0.1") for ip in found["ports"])
    assert found["code"] == 0
