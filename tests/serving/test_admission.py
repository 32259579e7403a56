"""What is asked beside texts that are written keeps to the same limits: choices, echoes and vectors."""

import json
import time

import httpx
import pytest

from polytask.model import Model
from polytask.serving.worker import Worker
from tests.inference.networks import TOKENIZER, network
from tests.serving.conftest import engine_of, running, tiny, until
from tests.serving.test_limits import LONG, TEXT, idle, opened

CLASSIFY = "/v1/tasks/classify"
MANY = {"example": {"text": "b" * 200, "labels": [f"label {i} " + "c" * 15 for i in range(100)]}}


@pytest.fixture(scope="module")
def narrow():
    """A model that writes two answers at once, by few tokens a step, and a queue for two more."""
    model = tiny(4096)
    model.engine = type(model.engine)(model.network, TOKENIZER, max_requests=2, chunk=16)
    with running({"tiny": model}, queue=2) as (address, app):
        yield address, app


def test_choices_hold_nobody_up_and_end_with_who_asks(narrow):
    address, app = narrow
    asking = opened(address, MANY, CLASSIFY)
    until(lambda: engine_of(app).scheduler.running)
    answer = httpx.post(address + TEXT, json={"prompt": "a", "max_tokens": 3}, timeout=60)
    assert answer.json()["usage"]["completion_tokens"] == 3
    scheduler = engine_of(app).scheduler
    assert len(scheduler.waiting) > 50, "the choice was made before the answer that came later"
    asking.close()
    until(lambda: idle(app))
    assert engine_of(app).pool.free == engine_of(app).pool.total


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CLASSIFY, {"example": {"text": "b", "labels": ["c", "d"]}}),
        ("/v1/embeddings", {"input": "b"}),
        (TEXT, {"prompt": "bcd", "max_tokens": 0, "echo": True, "logprobs": 1}),
        (TEXT, {"prompt": "b", "n": 3}),
    ],
)
def test_a_full_queue_takes_none_of_them(narrow, path, body):
    address, app = narrow
    held = [opened(address, {**LONG, "stream": True}) for _ in range(4)]
    until(lambda: app.state.shelf.get(None).worker.taken == 4)
    answer = httpx.post(address + path, json=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    for connection in held:
        connection.close()
    until(lambda: idle(app))
    assert httpx.post(address + path, json=body, timeout=60).status_code == 200


def test_more_answers_than_are_ever_taken(narrow):
    answer = httpx.post(narrow[0] + TEXT, json={"prompt": ["a", "b", "c"], "n": 8}, timeout=60)
    assert answer.status_code == 400
    assert "6 answers" in answer.json()["error"]["message"]


def test_what_a_choice_read_is_counted():
    with running() as (address, _):
        short = httpx.post(address + CLASSIFY, json={"example": {"text": "b", "labels": ["c", "d"]}}).json()
        long = httpx.post(address + CLASSIFY, json={"example": {"text": "b" * 101, "labels": ["c", "d"]}}).json()
        figures = httpx.get(address + "/metrics").text
    read = [one["usage"]["prompt_tokens"] for one in (short, long)]
    assert read[1] - read[0] == 100
    assert read[0] > len("b" + "c" + "d")
    assert {one["usage"]["completion_tokens"] for one in (short, long)} == {0}
    assert f'polytask_prompt_tokens_total{{model="tiny"}} {float(sum(read))}' in figures


def test_tokens_of_a_stream_that_was_left_are_counted():
    with running({"tiny": tiny(4096)}) as (address, app):
        connection = opened(address, {**LONG, "stream": True})
        until(lambda: engine_of(app).stats().run_tokens > 50)
        connection.close()
        until(lambda: idle(app))
        figures = httpx.get(address + "/metrics").text
    (wrote,) = [line for line in figures.splitlines() if line.startswith("polytask_completion_tokens_total")]
    assert float(wrote.split()[-1]) > 40


def test_echoes_end_with_who_asks(narrow):
    address, app = narrow
    before = engine_of(app).stats().run_tokens
    prompts = [f"{i} " + "b" * 500 for i in range(200)]
    connection = opened(address, {"prompt": prompts, "max_tokens": 0, "echo": True, "logprobs": 1})
    until(lambda: engine_of(app).stats().run_tokens > before + 100)
    connection.close()

    def rests():  # for longer than from one prompt to the next
        ran = engine_of(app).stats().run_tokens
        time.sleep(0.5)
        return engine_of(app).stats().run_tokens == ran

    until(rests, 60)
    assert engine_of(app).stats().run_tokens - before < 100 * 500


@pytest.mark.parametrize("body", [{"n": 2}, {"logprobs": 3}])
def test_choices_are_no_texts(body):
    with running() as (address, _):
        answer = httpx.post(address + CLASSIFY, json={"example": {"text": "b", "labels": ["c", "d"]}, **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(body)))


def test_long_prompts_are_refused_wherever_they_are_read():
    with running(prompt=50) as (address, _):
        for path, body, param in [
            (CLASSIFY, {"example": {"text": "b" * 100, "labels": ["c", "d"]}}, "example"),
            ("/v1/tasks/summarize", {"example": {"document": "b" * 100}}, "example"),
            (TEXT, {"prompt": "b" * 100, "max_tokens": 0, "echo": True}, "prompt"),
            ("/v1/embeddings", {"input": "b" * 100}, "input"),
            ("/v1/embeddings", {"input": ["b", "b" * 100_000]}, "input[1]"),
        ]:
            answer = httpx.post(address + path, json=body)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", param)


@pytest.mark.parametrize("stream", [True, False])
def test_what_is_echoed_is_weighed_in_the_place_of_its_answer(narrow, stream):
    """On a server that has room for these answers and no more."""
    body = {"prompt": ["bcd", "b", "cd", "dd"], "max_tokens": 2, "echo": True, "logprobs": 1, "stream": stream}
    answer = httpx.post(narrow[0] + TEXT, json=body, timeout=60)
    assert answer.status_code == 200
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    said = dict.fromkeys(range(4), "")
    for event in events if stream else [answer.json()]:
        for choice in event["choices"]:
            said[choice["index"]] += choice["text"]
    assert all(said[i].startswith(prompt) for i, prompt in enumerate(body["prompt"])), answer.text
    until(lambda: idle(narrow[1]))


@pytest.mark.parametrize("most", [0, 2])
def test_a_prompt_that_is_weighed_is_counted_once(most):
    with running() as (address, _):
        body = {"prompt": ["bcd", "ef"], "max_tokens": most, "echo": True, "logprobs": 1}
        usage = httpx.post(address + TEXT, json=body, timeout=60).json()["usage"]
        figures = httpx.get(address + "/metrics").text
    assert f'polytask_prompt_tokens_total{{model="tiny"}} {float(usage["prompt_tokens"])}\n' in figures
    assert f'polytask_first_token_seconds_count{{model="tiny"}} {float(most > 0)}\n' in figures


def test_what_is_echoed_has_no_time_of_its_own(monkeypatch):
    """Whoever asks for an echo waits no longer than others: its prompts are weighed within the time of the answer."""
    ends, submit = [], Worker.submit

    async def noted(self, *words):
        job = await submit(self, *words)
        ends.append(job.until)
        return job

    monkeypatch.setattr(Worker, "submit", noted)
    with running() as (address, _):
        body = {"prompt": ["bcd", "ef"], "max_tokens": 2, "echo": True, "logprobs": 1}
        assert httpx.post(address + TEXT, json=body, timeout=60).status_code == 200
    assert (len(ends), len(set(ends))) == (3, 1)


def test_a_prompt_that_cannot_be_weighed_is_refused_before_anything_is_written():
    with running({"encoder": Model(network("transformer"), TOKENIZER)}) as (address, _):
        body = {"prompt": "bcd", "max_tokens": 2, "echo": True, "logprobs": 1, "stream": True}
        answer = httpx.post(address + TEXT, json=body, timeout=60)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logprobs")
