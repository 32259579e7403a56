"""Small random models behind an app, at a port of this process: a client sees what it would see of any server."""

import threading
import time
from contextlib import contextmanager

import httpx
import openai
import pytest
import uvicorn

from polytask.model import Model
from polytask.serving.app import create_app
from polytask.serving.settings import Settings
from tests.inference.networks import TOKENIZER, network


def tiny(context: int = 256) -> Model:
    return Model(network(context=context), TOKENIZER)


@contextmanager
def running(models=None, **limits):
    """A server in a thread: its address and its app."""
    app = create_app(models or {"tiny": tiny()}, Settings(**limits))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", app
    finally:
        server.should_exit = True
        thread.join()


def until(holds, seconds: float = 30.0):
    """Waits until something holds; the machine may be busy."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it never came to be"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def server():
    with running({"tiny": tiny(), "other/two": tiny(64)}) as (address, app):
        yield address, app


@pytest.fixture(scope="module")
def http(server):
    """Of the conversation with `server`, which a module may have of its own."""
    with httpx.Client(base_url=server[0], timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server[0]}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def engine_of(app, name: str = "tiny"):
    return app.state.shelf.get(name).model.engine
