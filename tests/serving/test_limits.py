"""Keys, sizes, queues and times; clients that leave, that read slowly, or that are many."""

import json
import logging
import re
import socket
import time
from pathlib import Path

import httpx
import openai
import pytest

from polytask.errors import ConfigError
from polytask.serving.settings import Keys, Settings, read_keys
from tests.inference.networks import TOKENIZER
from tests.serving.conftest import engine_of, running, tiny, until

TEXT = "/v1/completions"
X = {str(TOKENIZER.encode("x")[0]): 100}  # writes x without an end
LONG = {"prompt": "a", "max_tokens": 4000, "logit_bias": X}


@pytest.fixture(scope="module")
def lasting():
    """A model that writes thousands of tokens, two at once, and a queue for two more."""
    model = tiny(4096)
    model.engine = type(model.engine)(model.network, TOKENIZER, max_requests=2)
    with running({"tiny": model}, queue=2) as (address, app):
        yield address, app


def idle(app) -> bool:
    engine = engine_of(app)
    return not engine.scheduler.running and not engine.scheduler.waiting and app.state.shelf.get(None).worker.taken == 0


def opened(address, body, path=TEXT) -> socket.socket:
    """A connection on which a request has been sent and nothing is read."""
    host, _, port = address.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)))
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    connection.sendall(head.encode() + content)
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_what_it_held(lasting, stream):
    address, app = lasting
    connection = opened(address, {**LONG, "stream": stream})
    until(lambda: engine_of(app).scheduler.running)
    group = engine_of(app).scheduler.running[0]
    connection.close()
    until(lambda: idle(app))
    assert group.sequences[0].finish == "cancelled"
    assert group.sequences[0].produced < 3000


def test_a_client_of_the_api_that_stops_reading_frees_it_too(lasting):
    address, app = lasting
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none")
    with client.completions.create(model="tiny", stream=True, **LONG) as stream:
        next(iter(stream))
    until(lambda: idle(app))


def test_a_full_queue_says_when_to_come_again(lasting):
    address, app = lasting
    held = [opened(address, {**LONG, "stream": True}) for _ in range(4)]
    until(lambda: app.state.shelf.get(None).worker.taken == 4)
    answer = httpx.post(address + TEXT, json={"prompt": "a"})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"] == "queue_full"
    assert httpx.get(address + "/health").status_code == 200
    for connection in held:
        connection.close()
    until(lambda: idle(app))
    assert httpx.post(address + TEXT, json={"prompt": "a", "max_tokens": 2}).status_code == 200


def test_a_reader_that_does_not_read_blocks_nobody(lasting):
    address, app = lasting
    connection = opened(address, {**LONG, "stream": True, "max_tokens": 3000})
    answer = httpx.post(address + TEXT, json={"prompt": "a", "max_tokens": 5}, timeout=60)
    assert answer.json()["usage"]["completion_tokens"] == 5
    connection.close()
    until(lambda: idle(app))


def test_the_time_of_a_request_is_bounded():
    with running({"tiny": tiny(4096)}, seconds=0.3) as (address, app):
        answer = httpx.post(address + TEXT, json=LONG, timeout=60)
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "timeout"
        streamed = httpx.post(address + TEXT, json={**LONG, "stream": True}, timeout=60)
        assert streamed.status_code == 200
        last = json.loads(streamed.text.strip().splitlines()[-1].removeprefix("data: "))
        assert last["error"]["code"] == "timeout"
        until(lambda: idle(app))


def test_bodies_and_prompts_are_bounded():
    with running(body=2000, prompt=50) as (address, _):
        large = httpx.post(address + TEXT, json={"prompt": "a" * 3000})
        assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")

        def drops():
            for _ in range(100):
                yield b" " * 100

        chunked = httpx.post(address + TEXT, content=drops(), headers={"content-type": "application/json"})
        assert chunked.status_code == 413
        long = httpx.post(address + TEXT, json={"prompt": "a" * 100})
        assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert httpx.post(address + TEXT, json={"prompt": "a", "max_tokens": 1}).status_code == 200


def test_keys(caplog, tmp_path, monkeypatch):
    caplog.set_level(logging.INFO, "polytask.serving")
    (tmp_path / "keys").write_text("# ours\nsk-one\n\nsk-two\n")
    monkeypatch.setenv("POLYTASK_API_KEYS", "sk-three, sk-four")
    with running(keys=read_keys(tmp_path / "keys")) as (address, _):
        for key in ("sk-one", "sk-two", "sk-three", "sk-four"):
            with openai.OpenAI(base_url=f"{address}/v1", api_key=key) as client:
                assert client.models.list().data
        with pytest.raises(openai.AuthenticationError, match="not known"):
            openai.OpenAI(base_url=f"{address}/v1", api_key="sk-on").models.list()
        for headers in ({}, {"authorization": "sk-one"}, {"authorization": "Basic sk-one"}):
            answer = httpx.get(address + "/v1/models", headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(address + "/metrics").status_code == 401
        assert httpx.get(address + "/health").status_code == 200
        assert httpx.post(address + TEXT, json={"prompt": "a", "api_key": "sk-one"}).status_code == 401
    assert "sk-" not in caplog.text
    assert "sk-" not in repr(Settings(keys=Keys(["sk-one"])))


def test_keys_that_cannot_be(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "absent")
    (tmp_path / "empty").write_text("# none\n\n")
    with pytest.raises(ConfigError, match="no key"):
        read_keys(tmp_path / "empty")
    monkeypatch.setenv("POLYTASK_API_KEYS", " , ")
    with pytest.raises(ConfigError, match="holds no key"):
        read_keys()
    monkeypatch.setenv("POLYTASK_API_KEYS", "schl\u00fcssel")
    with pytest.raises(ConfigError, match="no header"):
        read_keys()
    monkeypatch.delenv("POLYTASK_API_KEYS")
    assert read_keys() is None


def test_pages_of_others_may_ask_only_where_they_are_let():
    ask = {"origin": "https://a.example", "access-control-request-method": "POST"}
    with running() as (address, _):
        assert "access-control-allow-origin" not in httpx.options(address + TEXT, headers=ask).headers
    with running(cors=("https://a.example",), keys=Keys(["k"])) as (address, _):
        answer = httpx.options(address + TEXT, headers=ask)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        other = httpx.options(address + TEXT, headers={**ask, "origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
        refused = httpx.post(address + TEXT, json={}, headers={"origin": "https://a.example"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://a.example"


def test_the_log_holds_no_prompts_unless_asked(caplog):
    caplog.set_level(logging.INFO, "polytask.serving")
    body = {"prompt": "a secret", "max_tokens": 2}
    with running() as (address, _):
        httpx.post(address + TEXT + "?x=hidden", json=body, headers={"x-request-id": "one"})
    with running(log_prompts=True) as (address, _):
        httpx.post(address + TEXT, json=body, headers={"x-request-id": "two"})
    lines = {
        line["request"]: line
        for line in map(json.loads, (r.message for r in caplog.records if r.name == "polytask.serving"))
    }
    assert lines["one"]["status"] == 200
    assert lines["one"]["completion_tokens"] == 2
    assert lines["one"]["path"] == TEXT
    assert "secret" not in json.dumps(lines["one"])
    assert lines["two"]["prompt"] == ["a secret"]


def test_the_log_says_what_was_refused_and_who_left(caplog):
    caplog.set_level(logging.INFO, "polytask.serving")
    with running({"tiny": tiny(4096)}) as (address, app):
        httpx.post(address + TEXT, json={"prompt": "a", "temperature": 9})
        httpx.post(address + TEXT, json={"prompt": "a", "model": "other"})
        connection = opened(address, {**LONG, "stream": True})
        until(lambda: engine_of(app).stats().run_tokens > 20)
        connection.close()
        until(lambda: idle(app))
    lines = [json.loads(record.message) for record in caplog.records if record.name == "polytask.serving"]
    said = [{name: line[name] for name in ("status", "error", "param", "left") if name in line} for line in lines]
    assert said == [
        {"status": 400, "param": "temperature"},
        {"status": 404, "error": "model_not_found", "param": "model"},
        {"status": 200, "left": True},
    ]


def test_figures_for_prometheus():
    with running() as (address, _):
        httpx.post(address + TEXT, json={"prompt": "abc", "max_tokens": 5, "logit_bias": X})
        httpx.post(address + TEXT, json={"prompt": 5})
        httpx.get(address + "/nothing-of-the-kind")
        time.sleep(0.05)
        text = httpx.get(address + "/metrics").text
    assert 'polytask_prompt_tokens_total{model="tiny"} 4.0' in text
    assert 'polytask_completion_tokens_total{model="tiny"} 5.0' in text
    assert 'polytask_first_token_seconds_count{model="tiny"} 1.0' in text
    assert 'polytask_between_tokens_seconds_count{model="tiny"} 4.0' in text
    assert 'polytask_request_seconds_count{method="POST",route="/v1/completions",status="400"} 1.0' in text
    assert "nothing-of-the-kind" not in text
    assert 'polytask_running{model="tiny"} 0.0' in text
    documented = Path("docs/serving.md").read_text()
    for name in set(re.findall(r"^# TYPE (polytask_\w+)", text, re.MULTILINE)):
        assert name.endswith("_created") or f"`{name}`" in documented
