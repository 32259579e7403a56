"""What only a process shows: how it starts, how it ends, and what it says where it cannot start."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading

import httpx
import openai
import pytest
from typer.testing import CliRunner

from polytask.cli.main import app as cli
from tests.inference.networks import TOKENIZER
from tests.serving.conftest import tiny, until

X = {str(TOKENIZER.encode("x")[0]): 100}
HELLO = [{"role": "user", "content": "Hello!"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny(4096).save(path)
    return path


class Process:
    """polytask serve as a user starts it; `address` is what it prints."""

    def __init__(self, *args, port: int = 0):
        words = [sys.executable, "-m", "polytask.cli.main", "serve", *map(str, args), "--port", str(port)]
        environment = os.environ | {"PYTHONPATH": "src", "OMP_NUM_THREADS": "1"}
        self.run = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def started(self) -> "Process":
        line = self.run.stdout.readline()
        assert "Serving" in line, self.run.communicate(timeout=30)
        self.address = re.search(r"http://[^/]+", line)[0]
        self.port = int(self.address.rpartition(":")[2])
        threading.Thread(target=self.run.stderr.read, daemon=True).start()
        return self

    def client(self):
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key="none", max_retries=0, timeout=120)


def test_it_ends_when_what_runs_has_ended_and_starts_again_after_a_crash(folder):
    both = Process(folder, "--model", f"again={folder}"), Process(folder)
    process, killed = (one.started() for one in both)
    list(zip(range(3), killed.client().completions.create(model="tiny", prompt="a", max_tokens=900, stream=True)))
    killed.run.kill()
    killed.run.wait(30)
    restarted = Process(folder, port=killed.port)

    client = process.client()
    assert [model.id for model in client.models.list()] == ["tiny", "again"]
    stream = client.chat.completions.create(model="again", messages=HELLO, max_tokens=400, logit_bias=X, stream=True)
    chunks = iter(stream)
    next(chunks)
    assert httpx.get(process.address + "/ready").status_code == 200
    process.run.send_signal(signal.SIGTERM)
    until(lambda: httpx.get(process.address + "/ready").status_code == 503)
    with pytest.raises(openai.InternalServerError, match="about to stop"):
        client.completions.create(model="tiny", prompt="a")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "x" * 400
    stream.close()
    assert process.run.wait(60) == 0

    client = restarted.started().client()
    assert client.completions.create(model="tiny", prompt="a", max_tokens=2).usage.completion_tokens <= 2
    running = client.completions.create(model="tiny", prompt="a", max_tokens=4000, logit_bias=X, stream=True)
    next(iter(running))
    restarted.run.send_signal(signal.SIGTERM)
    until(lambda: httpx.get(restarted.address + "/ready").status_code == 503)
    restarted.run.send_signal(signal.SIGTERM)
    assert restarted.run.wait(10) == 128 + signal.SIGTERM


def said(*args) -> str:
    """The one sentence of a server that cannot start."""
    done = CliRunner().invoke(cli, ["serve", *map(str, args)])
    assert done.exit_code == 2, done.output
    return " ".join(done.stderr.split())


def test_what_it_says_where_it_cannot_start(folder, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "Address already in use" in said(folder, "--port", taken.getsockname()[1])
    assert "cannot listen" in said(folder, "--host", "nowhere.invalid")
    assert "cannot be read" in said(folder, "--api-key-file", tmp_path / "absent", "--port", 0)
    (tmp_path / "none").write_text("")
    assert "no key" in said(folder, "--api-key-file", tmp_path / "none", "--port", 0)
    assert "no checkpoint" in said(tmp_path / "absent", "--port", 0)
    assert "no config.json" in said(tmp_path, "--port", 0)
    assert "cannot be a model's name" in said(folder, "--model", f"../x={folder}", "--port", 0)
    assert "two models are called 'tiny'" in said(folder, "--model", f"tiny={folder}", "--port", 0)
    assert "not of the form" in said(folder, "--model", folder, "--port", 0)
    assert "must be above 0" in said(folder, "--max-queue", 0, "--port", 0)
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = bytearray((broken / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (broken / "model.safetensors").write_bytes(weights)
    assert "model.safetensors" in said(broken, "--port", 0)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "polytask.serving.lasting", raising=False)
    assert "pip install 'polytask[serve]'" in said(folder, "--port", 0)
