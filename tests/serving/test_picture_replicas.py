"""Requests with pictures come through two replicas whole."""

import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

import polytask
from polytask.interop import networks
from polytask.models.diffusion import Diffusion, DiffusionConfig
from polytask.tasks.picture import decode
from tests.inference.networks import TOKENIZER
from tests.painters import write_clip
from tests.serving.artists import LENGTH, READER, UNET, by_tokens, hole, picture, pixels, shaken, url

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed; pip install 'polytask[ray]'"),
    pytest.mark.timeout(900),
]
SECONDS = 300.0  # the machine may be busy


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    network = shaken(Diffusion(DiffusionConfig(UNET, text=READER)).initialize(0))
    networks.save(root / "painter", network, about={"text_length": LENGTH}, tokenizer=TOKENIZER)
    by_tokens().save(root / "tokens")
    write_clip(root / "clip")
    return root


class Server:
    """`polytask serve` with two replicas; `log` is what it has written."""

    def __init__(self, root: Path):
        more = [word for name in ("tokens", "clip") for word in ("--model", f"{name}={root / name}")]
        words = ["serve", str(root / "painter"), *more, "--port", "0", "--replicas", "2", "--replica-cpus", "0.1"]
        environment = os.environ | {"PYTHONPATH": "src", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "polytask.cli.main", *words]
        self.log = root / "log"
        with self.log.open("w") as log:
            self.run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        found = re.search(r"http://[^/]+", self.run.stdout.readline())
        assert found, self.log.read_text()
        self.address = found[0]
        self.held = [self.run.stdout.readline() for _ in range(3)]


@pytest.fixture(scope="module")
def server(folders):
    started = Server(folders)
    yield started
    started.run.send_signal(signal.SIGTERM)
    assert started.run.wait(SECONDS) == 0


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=SECONDS) as made:
        yield made


def test_the_banner_says_what_a_replica_holds(server):
    for line, name in zip(server.held, ("painter", "tokens", "clip"), strict=True):
        assert re.match(rf"  {name}: [\d.]+ MiB of weights", line)


def test_requests_with_pictures_come_through_whole(server, client, folders):
    tokens = polytask.load(folders / "tokens")
    seen, few = picture(), {"max_tokens": 6, "temperature": 0}
    drawn = client.images.generate(model="tokens", prompt="a circle", n=2, extra_body={"seed": 3})
    assert [pixels(one) for one in drawn.data] == [pixels(one) for one in tokens.draw("a circle", n=2, seed=3)]
    words = {"model": "painter", "image": seen, "mask": hole(), "prompt": "a square"}
    edited = client.images.edit(**words, extra_body={"seed": 3, "steps": 4})
    kept = np.frombuffer(pixels(edited.data[0]), np.uint8).reshape(8, 8, 3)[:, :4]
    assert (kept == np.asarray(decode(seen))[:, :4]).all()

    body = {"model": "tokens", "example": {"image": url(seen)}, **few}
    answer = httpx.post(f"{server.address}/v1/tasks/caption", json=body, timeout=SECONDS).json()
    assert answer["answers"][0]["answer"] == tokens.caption(seen, **few)
    content = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url(seen)}}]
    said = {"model": "tokens", "messages": [{"role": "user", "content": content}], **few}
    whole = client.chat.completions.create(**said).choices[0].message.content
    pieces = client.chat.completions.create(**said, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole
    vectors = client.embeddings.create(model="clip", input=[content[1], "a circle"]).data
    clip = polytask.load(folders / "clip")
    np.testing.assert_allclose(vectors[0].embedding, clip.embed(seen)[0], atol=1e-5)
    with pytest.raises(openai.BadRequestError, match="broken") as error:
        client.images.edit(**{**words, "image": seen[:60]})
    assert error.value.param == "image"
