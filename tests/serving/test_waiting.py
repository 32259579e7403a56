"""Requests that wait for others: what their clients have had by then, and who goes first."""

import json
import socket
import threading

import openai
import pytest

from tests.inference.networks import TOKENIZER
from tests.serving.conftest import engine_of, running, tiny, until
from tests.serving.test_limits import opened

X = {str(TOKENIZER.encode("x")[0]): 100}  # writes x without an end
LONG = {"prompt": "a", "max_tokens": 4000, "logit_bias": X, "stream": True}


@pytest.fixture(scope="module")
def single():
    """A model that writes one answer at a time."""
    model = tiny(4096)
    model.engine = type(model.engine)(model.network, TOKENIZER, max_requests=1)
    with running({"tiny": model}) as (address, app):
        yield address, app


def had(connection: socket.socket, seconds: float) -> bytes:
    """What comes in so many seconds."""
    connection.settimeout(seconds)
    content = b""
    try:
        while part := connection.recv(1 << 16):
            content += part
    except TimeoutError:
        pass
    return content


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ("/v1/responses", {"input": "a"}),
        ("/v1/completions", {"prompt": "a", "echo": True}),
    ],
)
def test_a_stream_that_waits_has_not_begun(single, path, body):
    """So another replica may take it over."""
    address, app = single
    holder = opened(address, LONG)
    until(lambda: engine_of(app).scheduler.running)
    waiting = opened(address, {**body, "stream": True}, path)
    until(lambda: engine_of(app).scheduler.waiting)
    early = had(waiting, 0.3)
    holder.close()
    assert not early.partition(b"\r\n\r\n")[2]
    assert b"data: {" in had(waiting, 1.0)
    waiting.close()
    until(lambda: not engine_of(app).busy)


def test_lower_priorities_go_first(single):
    address, app = single
    holder, ended = opened(address, LONG), list[int]()
    until(lambda: engine_of(app).scheduler.running)

    def ask(priority: int, route: str) -> None:
        with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            more = {"extra_body": {"priority": priority, "logit_bias": X}}
            if route == "chat":
                messages = [{"role": "user", "content": "a"}]
                client.chat.completions.create(model="tiny", messages=messages, max_tokens=20, **more)
            elif route == "responses":
                client.responses.create(model="tiny", input="a", max_output_tokens=20, **more)
            else:
                client.completions.create(model="tiny", prompt="a", max_tokens=20, **more)
        ended.append(priority)

    threads = []
    for waiting, one in enumerate(((7, "completions"), (2, "chat"), (-3, "responses")), 1):
        threads.append(threading.Thread(target=ask, args=one))
        threads[-1].start()
        until(lambda waiting=waiting: len(engine_of(app).scheduler.waiting) == waiting)
    order = [group.request.priority for group in engine_of(app).scheduler.waiting]
    holder.close()
    for thread in threads:
        thread.join()
    assert order == [-3, 2, 7]
    assert sorted(ended) == order


def test_a_task_waits_by_its_priority(single):
    address, app = single
    holder = opened(address, LONG)
    until(lambda: engine_of(app).scheduler.running)
    asked = opened(address, {"example": {"text": "a"}, "priority": 4, "max_tokens": 3}, "/v1/tasks/generate")
    until(lambda: engine_of(app).scheduler.waiting)
    assert engine_of(app).scheduler.waiting[0].request.priority == 4
    holder.close()
    assert json.loads(had(asked, 1.0).partition(b"\r\n\r\n")[2])["answers"]
    asked.close()
