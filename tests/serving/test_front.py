"""The front with replicas that are functions of this process: what it passes on, asks again for, and says of losses."""

import asyncio
import json

import httpx
import pytest
from starlette.responses import JSONResponse

from polytask.serving.front import NOTE, Lost, Pool, create_front
from polytask.serving.settings import Keys, Settings

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}


def part(text: bytes, more: bool = True) -> dict:
    return {"type": "http.response.body", "body": text, "more_body": more}


class Replicas:
    """Answers one after the other: lists of messages, or what is raised in their place."""

    def __init__(self, *answers, figures=None, ready=2):
        self.answers, self.asked, self.closed = list(answers), [], 0
        self.front = lambda **limits: create_front(
            Pool(self.ask, lambda: ready, self.figures), Settings(**{"seconds": 5, **limits})
        )
        self.told = figures or {}

    async def ask(self, scope, body):
        self.asked.append((scope, body))
        try:
            for some in self.answers[len(self.asked) - 1]:
                if isinstance(some, BaseException):
                    raise some
                if isinstance(some, float):
                    await asyncio.sleep(some)
                    continue
                yield some
        finally:
            self.closed += 1

    async def figures(self):
        return self.told


def whole(content: dict) -> list:
    messages = []

    async def send(message):
        messages.append(message)

    asyncio.run(JSONResponse(content, headers={"x-request-id": "theirs"})({"type": "http"}, None, send))
    return [messages, [{"type": NOTE, "note": {"replica": "a"}}]]


def ask(front, path="/v1/completions", method="POST", **words):
    async def run():
        transport = httpx.ASGITransport(front, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **words)

    return asyncio.run(run())


def test_a_request_is_passed_without_its_key_and_answered_under_its_name():
    replicas = Replicas(whole({"a": 1}))
    headers = {"Authorization": "Bearer secret", "x-request-id": "mine"}
    answer = ask(replicas.front(keys=Keys(["secret"])), json={"prompt": "é"}, headers=headers)
    assert (answer.json(), answer.headers.get_list("x-request-id")) == ({"a": 1}, ["mine"])
    scope, body = replicas.asked[0]
    assert json.loads(body) == {"prompt": "é"}
    assert dict(scope["headers"])[b"x-request-id"] == b"mine"
    assert b"secret" not in repr(scope).encode()


def test_keys_and_limits_are_the_fronts():
    replicas = Replicas()
    assert ask(replicas.front(keys=Keys(["secret"])), json={}).json()["error"]["code"] == "invalid_api_key"
    assert ask(replicas.front(body=10), json={"prompt": "a" * 20}).json()["error"]["code"] == "body_too_large"
    front = replicas.front()
    front.state.life.draining = True
    assert ask(front, json={}).json()["error"]["code"] == "draining"
    assert ask(front, "/ready", "GET").status_code == 503
    assert not replicas.asked


@pytest.mark.parametrize("before", [[], [[START]]], ids=["before anything", "after the head"])
def test_what_had_not_begun_is_asked_of_another_replica(before):
    replicas = Replicas([*before, Lost("killed")], whole({"a": 1}))
    assert ask(replicas.front(), json={}).json() == {"a": 1}
    assert (len(replicas.asked), replicas.closed) == (2, 2)


def test_a_stream_that_had_begun_ends_with_an_error():
    replicas = Replicas([[START, part(b"data: 1\n\n")], Lost("killed")])
    answer = ask(replicas.front(), json={})
    first, second = answer.text.strip().split("\n\n")
    error = json.loads(second.removeprefix("data: "))["error"]
    assert (first, error["type"], error["code"]) == ("data: 1", "server_error", "replica_lost")
    assert len(replicas.asked) == 1


def test_a_request_that_ends_every_replica_is_given_up():
    answer = ask(Replicas(*[[Lost("killed")]] * 9).front(), json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "replica_lost")


def test_the_time_of_a_request_is_bounded():
    answer = ask(Replicas([9.0]).front(seconds=0.1), json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    streamed = ask(Replicas([[START, part(b"data: 1\n\n")], 9.0]).front(seconds=0.1), json={})
    assert streamed.status_code == 200
    assert '"timeout"' in streamed.text.split("\n\n")[1]


def test_a_client_that_leaves_ends_the_work_of_a_replica():
    replicas = Replicas([[START, part(b"data: 1\n\n")], 60.0])
    front = replicas.front(seconds=90)

    async def run():
        heard = asyncio.Event()
        given = iter([{"type": "http.request", "body": b"{}", "more_body": False}])

        async def receive():
            for message in given:
                return message
            await heard.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.body":
                heard.set()

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"", "headers": headers}
        async with asyncio.timeout(20):
            await front(scope, receive, send)

    asyncio.run(run())
    assert replicas.closed == 1


def test_figures_are_those_of_the_front_and_of_each_replica():
    text = b'# HELP a_total A.\n# TYPE a_total counter\na_total{model="m"} %d.0\n'
    front = Replicas(whole({}), figures={"one": text % 1, "two": text % 2}).front()
    ask(front, json={})
    lines = ask(front, "/metrics", "GET").text.splitlines()
    assert {line for line in lines if line.startswith("a_total")} == {
        'a_total{model="m",replica="one"} 1.0', 'a_total{model="m",replica="two"} 2.0',
    }  # fmt: skip
    assert sum(line == "# TYPE a_total counter" for line in lines) == 1
    assert any(line.startswith("polytask_request_seconds_count") and 'replica="front"' in line for line in lines)


def test_names_are_the_fronts():
    """A replica, which has no keys, is not told by what name the front was asked."""
    replicas = Replicas(whole({"a": 1}))
    evil = {"host": "evil.example"}
    assert ask(replicas.front(), json={}, headers=evil).json()["error"]["code"] == "unknown_host"
    known = {**evil, "authorization": "Bearer secret"}
    assert ask(replicas.front(keys=Keys(["secret"])), json={}, headers=known).json() == {"a": 1}
    assert b"evil" not in repr(replicas.asked[0][0]).encode()


def test_health_is_that_of_the_replicas():
    assert ask(Replicas(ready=1).front(), "/health", "GET").json() == {"status": "ok", "replicas": 1}
    assert ask(Replicas(ready=0).front(), "/health", "GET").status_code == 503
    assert ask(Replicas(ready=1).front(), "/health", "HEAD").status_code == 200
    assert ask(Replicas(ready=0).front(), "/ready", "GET").status_code == 503
