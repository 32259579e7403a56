"""What a server writes: its banner and its log, and that it goes on where nobody can take them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from polytask.cli.main import app as cli
from polytask.serving import server
from polytask.serving.names import drafts
from tests.serving.conftest import tiny, until

FULL = Path("/dev/full")  # a device on which no byte finds room
HERE = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full on this system")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny().save(path)
    return path


@contextmanager
def process(*words, out, log):
    """`polytask serve` that writes to these files: its address, once it answers. In the end it must stop by itself."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "polytask.cli.main", "serve", *map(str, words), "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": "src", "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, stdout=out, stderr=log, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: run.poll() is not None or _answers(address), 120)
        assert run.poll() is None, run.returncode
        yield address
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == 0
    finally:
        run.kill()


def _answers(address: str) -> bool:
    try:
        return httpx.get(address + "/health").status_code == 200
    except httpx.TransportError:
        return False


def written(address: str, prompt: str = "a") -> int:
    return httpx.post(address + "/v1/completions", json={"prompt": prompt, "max_tokens": 2}, timeout=60).status_code


def nonsense(address: str) -> bytes:
    """What is answered to bytes that are no HTTP."""
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=30) as connection:
        connection.sendall(b"\0\1\2 nonsense\r\n\r\n")
        return connection.recv(999)


@HERE
def test_full_disks_for_banner_and_log_stop_nothing(folder):
    with FULL.open("w") as out, FULL.open("w") as log, process(folder, out=out, log=log) as address:
        assert [written(address) for _ in range(3)] == [200] * 3
        assert nonsense(address).startswith(b"HTTP/1.1 400")
        assert written(address) == 200


def test_nobody_need_read_the_banner_and_every_line_of_the_log_is_json(folder, tmp_path):
    reader, out = os.pipe()
    os.close(reader)
    with (tmp_path / "log").open("w") as log, process(folder, "--truncate", "left", out=out, log=log) as address:
        assert nonsense(address).startswith(b"HTTP/1.1 400")
        assert written(address) == 200
        assert written(address, "dog " * 3000) == 200
    os.close(out)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["status"] for line in lines if line.get("path") == "/v1/completions"] == [200, 200]
    assert any("are cut" in line.get("message", "") for line in lines)
    (invalid,) = (line for line in lines if "Invalid HTTP" in line.get("message", ""))
    assert invalid["level"] == "warning"
    assert re.fullmatch(r"[\d-]+T[\d:]+Z", invalid["time"])


def test_the_banner_says_what_each_model_holds(folder, tmp_path):
    words = [folder, "--model", f"two={folder}", "--draft", "two=ngram", "--cache", 1]
    words += ["--model", f"drafted={folder}", "--draft", f"drafted={folder}"]
    with (tmp_path / "out").open("w") as out, process(*words, out=out, log=subprocess.DEVNULL) as address:
        until(lambda: (tmp_path / "out").read_text().count("\n") == 4)
        metrics = httpx.get(address + "/metrics").text
    said = (tmp_path / "out").read_text()
    for name in ("tiny", "two"):
        line = rf"  {name}: ([\d.]+) MiB of weights, ([\d.]+) MiB of key/value cache for ([\d,]+) tokens"
        weights, cache, tokens = re.search(line, said).groups()
        figures = {
            what: float(re.search(rf'polytask_{what}{{model="{name}"}} (\S+)', metrics)[1])
            for what in ("weight_bytes", "cache_bytes", "cache_tokens")
        }
        assert float(weights) == pytest.approx(figures["weight_bytes"] / 2**20, abs=0.06)
        assert float(cache) == pytest.approx(figures["cache_bytes"] / 2**20, abs=0.06)
        assert 0.9 < float(cache) <= 1
        assert int(tokens.replace(",", "")) == figures["cache_tokens"]
    held = dict(re.findall(r"  (\w+): ([\d.]+) MiB of weights", said))
    assert float(held["drafted"]) == pytest.approx(2 * float(held["two"]), abs=0.11)


def test_the_head_of_health_is_answered(http):
    for path in ("/health", "/ready"):
        head = http.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == http.get(path).headers["content-type"]


def test_each_model_has_its_own_draft(folder, monkeypatch):
    told = {}
    monkeypatch.setattr(server, "serve", lambda paths, **words: told.update(words, paths=paths))
    words = ["--name", "one", "--model", f"two={folder}", "--draft", "ngram", "--max-requests", "3", "--cache", "2"]
    assert CliRunner().invoke(cli, ["serve", str(folder), *words]).exit_code == 0
    assert told["loading"]["cache"] == 2 << 20
    loaded = server.load(told["paths"], told["loading"])
    assert loaded["one"].engine.speculator.proposer is not None
    assert loaded["two"].engine.speculator.proposer is None
    assert [model.engine.max_requests for model in loaded.values()] == [3, 3]
    assert drafts(["a", "two=b=c"], ["one", "two"]) == {"one": "a", "two": "b=c"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--max-body", "nan"], "--max-body is nan; it must be above 0"),
        (["--max-body", "inf"], "--max-body is inf; it must be above 0, and finite."),
        (["--max-body", "-1"], "must be above 0"),
        (["--max-seconds", "nan"], "--max-seconds is nan; it must be above 0"),
        (["--max-seconds", "inf"], "--max-seconds is inf; it must be above 0"),
        (["--max-prompt", "0"], "--max-prompt is 0; it must be above 0"),
        (["--max-queue", "-5"], "--max-queue is -5; it must be above 0"),
        (["--max-connections", "0"], "--max-connections is 0; it must be above 0"),
        (["--draft", "tinny=ngram"], "there is no model 'tinny': did you mean 'tiny'?"),
        (["--draft", "ngram", "--draft", "tiny=ngram"], "'tiny' is given two"),
        (["--model", "x=a", "--model", "x=b"], "--model: 'x' is given twice; give each name once."),
        (["--host", "127.0.0..1"], "cannot listen at 127.0.0..1:8000: "),
        (["--max-requests", "0"], "'--max-requests'"),
        (["--max-requests", "nan"], "'--max-requests'"),
        (["--cache", "0"], "'--cache'"),
        (["--cache", "inf"], "'--cache'"),
    ],
)
def test_options_that_cannot_be(words, sentence):
    done = CliRunner().invoke(cli, ["serve", "anywhere/tiny", *words])
    assert done.exit_code == 2, done.output
    assert sentence in " ".join(done.stderr.split())
