"""What a client can do wrong: each is refused with a sentence and the field, and the others are unharmed."""

import json

import pytest
from fastapi.exceptions import RequestValidationError

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
USER = [{"role": "user", "content": "Hello!"}]
JSON = {"content-type": "application/json"}


def refused(answer, status: int = 400) -> dict:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith((".", "?"))
    return error


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {}, "messages"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": "Hello"}, "messages"),
        (CHAT, {"messages": [{"role": "friend", "content": "a"}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
        (CHAT, {"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].image_url",
        ),
        (CHAT, {"messages": USER, "temperature": "warm"}, "temperature"),
        (CHAT, {"messages": USER, "temperature": 3}, "temperature"),
        (CHAT, {"messages": USER, "temperature": True}, "temperature"),
        (CHAT, {"messages": USER, "max_tokens": 0}, "max_tokens"),
        (CHAT, {"messages": USER, "max_tokens": 1.5}, "max_tokens"),
        (CHAT, {"messages": USER, "n": 0}, "n"),
        (CHAT, {"messages": USER, "n": 10**6}, "n"),
        (CHAT, {"messages": USER, "seed": 2**70}, "seed"),
        (CHAT, {"messages": USER, "stop": ""}, "stop"),
        (CHAT, {"messages": USER, "stop": ["a", ""]}, "stop[1]"),
        (CHAT, {"messages": USER, "stop": ["a"] * 17}, "stop"),
        (CHAT, {"messages": USER, "top_logprobs": 3}, "top_logprobs"),
        (CHAT, {"messages": USER, "logit_bias": {"a": 1}}, "logit_bias.a"),
        (CHAT, {"messages": USER, "logit_bias": {"5": 101}}, "logit_bias.5"),
        (CHAT, {"messages": USER, "teperature": 1}, "teperature"),
        (CHAT, {"messages": USER, "tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        (CHAT, {"messages": USER, "tools": [{"type": "function"}]}, "tools[0].function"),
        (TEXT, {"prompt": 5}, "prompt"),
        (TEXT, {"prompt": []}, "prompt"),
        (TEXT, {"prompt": [[]]}, "prompt[0]"),
        (TEXT, {"prompt": [1, -1]}, "prompt[1]"),
        (TEXT, {"prompt": [999999]}, "prompt"),
        (TEXT, {"prompt": "a", "suffix": "b"}, "suffix"),
        (TEXT, {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        (TEXT, {"prompt": "a", "best_of": 3, "stream": True}, "best_of"),
        (TEXT, {"prompt": ["a"] * 5000}, "prompt"),
        ("/v1/embeddings", {}, "input"),
        ("/v1/embeddings", {"input": ""}, "input"),
        ("/v1/embeddings", {"input": "a", "dimensions": 3}, "dimensions"),
        ("/v1/responses", {}, "input"),
        ("/v1/responses", {"input": [{"type": "message", "content": "a"}]}, "input[0].role"),
        ("/v1/responses", {"input": "a", "conversation": "c"}, "conversation"),
        ("/v1/responses", {"input": "a", "background": True}, "background"),
        ("/v1/tasks/translate", {}, "example"),
        ("/v1/tasks/translate", {"example": {}, "shots": {}}, "shots"),
    ],
)
def test_the_field_is_named(http, path, body, param):
    assert refused(http.post(path, json=body))["param"] == param


@pytest.mark.parametrize(
    "example", [{}, {"source": 5, "target_lang": "de"}, {"source": "a", "target_lang": "de", "taget": "b"}]
)
def test_a_task_names_its_fields(http, example):
    assert "Task 'translation'" in refused(http.post("/v1/tasks/translate", json={"example": example}))["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "x" * 999}]}),
        (TEXT, {"prompt": [70] * 999}),
        (TEXT, {"prompt": "x" * 999, "echo": True, "max_tokens": 0}),
        ("/v1/embeddings", {"input": "x" * 999}),
        ("/v1/tasks/generate", {"example": {"text": "x" * 999}}),
    ],
)
def test_what_is_too_long_has_its_code(http, path, body):
    assert refused(http.post(path, json=body))["code"] == "context_length_exceeded"


def test_models_tasks_and_addresses_that_are_not_there(http):
    assert "did you mean 'tiny'?" in refused(http.post(TEXT, json={"model": "tinny", "prompt": "a"}), 404)["message"]
    for name in (
        "../../etc/passwd",
        "/etc/passwd",
        "tiny/../tiny",
        "other%2Ftwo/../..",
        "t\u0131ny",
        "tiny\x00",
        "x" * 900,
    ):
        assert refused(http.post(TEXT, json={"model": name, "prompt": "a"}), 404)["code"] == "model_not_found"
    assert refused(http.get("/v1/models/..%2f..%2fetc%2fpasswd"), 404)["type"] == "invalid_request_error"
    assert "did you mean 'translat" in refused(http.post("/v1/tasks/transl", json={"example": {}}), 404)["message"]
    refused(http.get("/v1/nothing"), 404)
    refused(http.put("/v1/models"), 405)
    for path in ("/v1/audio/speech", "/v1/audio/transcriptions"):
        assert refused(http.post(path, json={}), 501)["code"] == "not_implemented"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"5", b'"a"', b"null", b"\xff\xfe", b'{"prompt": "\xff"}',
        b'{"prompt": "a", "temperature": NaN}', b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", b'{"prompt": "a", "stop": "\\ud800"}',
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"prompt":' * 50_000,
        b'{"prompt": "a", "metadata": ' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}",
        b'"' + b'\\"' * 1_000_000,  # a string without an end, which nothing may look for from each quote
    ],
)  # fmt: skip
def test_bodies_that_are_no_request(http, body):
    refused(http.post(TEXT, content=body, headers=JSON))


def test_half_characters_are_refused_or_read(http):
    """A lone surrogate is no text; what is sent back must be UTF-8 all the same."""
    answer = http.post(TEXT, content=b'{"model": "\\ud800", "prompt": "a"}', headers=JSON)
    assert answer.status_code in (400, 404)
    answer.content.decode()
    for prompt in ('"\\ud83d"', '"\\u0000"', '"\\uffff\\ufffe"', '"\\u202e abc"', '["\\udc00a"]'):
        answer = http.post(TEXT, content=b'{"max_tokens": 2, "prompt": ' + prompt.encode() + b"}", headers=JSON)
        assert answer.status_code in (200, 400)
        answer.content.decode()


def test_stops_with_characters_of_many_parts(http):
    """Letters with marks, emoji of several code points: found as they are written, in any step."""
    for stop in ("e\u0301", "\U0001f469\u200d\U0001f4bb", "\u202e", "\x00", "\ufffd"):
        answer = http.post(TEXT, json={"prompt": "a", "max_tokens": 12, "stop": [stop], "seed": 1})
        assert answer.status_code == 200
        assert stop not in answer.json()["choices"][0]["text"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_other_kinds_of_content(http, kind):
    """A page of another origin can send these without asking; so they are not read."""
    refused(http.post(TEXT, content=json.dumps({"prompt": "a"}), headers={"content-type": kind}), 415)


def test_names_of_requests_are_cleaned(http):
    assert http.get("/health", headers={"x-request-id": "mine-1.a_B"}).headers["x-request-id"] == "mine-1.a_B"
    for bad in ("a b", "a;b", "x" * 200, "<script>", "a%0d%0aset-cookie:b", ""):
        assert http.get("/health", headers={"x-request-id": bad}).headers["x-request-id"].startswith("req-")


def test_a_key_in_the_address_is_refused(http):
    for name in ("api_key", "key", "access_token", "API_KEY"):
        assert refused(http.get("/v1/models", params={name: "secret"}))["code"] == "key_in_address"


def test_others_are_unharmed(http):
    assert http.post(TEXT, json={"prompt": "a", "max_tokens": 3}).status_code == 200
    assert http.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (TEXT, {"prompt": ["a", *[1] * 20_000]}, "prompt[0]"),
        (TEXT, {"prompt": [[1, *"a" * 20_000]]}, "prompt[0][1]"),
        (TEXT, {"prompt": "a", "stop": [1] * 20_000}, "stop[0]"),
        (TEXT, {"prompt": "a", "logit_bias": dict.fromkeys(map(str, range(20_000)), "a")}, "logit_bias"),
        (TEXT, {"prompt": "a", "metadata": dict.fromkeys(map(str, range(20_000)), 1)}, "metadata"),
        (CHAT, {"messages": [1] * 20_000}, "messages[0]"),
        (CHAT, {"messages": [{"role": "user", "content": [1] * 20_000}]}, "messages[0].content[0]"),
        (CHAT, {"messages": [{"role": "assistant", "tool_calls": [1] * 20_000}]}, "messages[0].tool_calls[0]"),
        (CHAT, {"messages": USER, "tools": [1] * 20_000}, "tools[0]"),
        (CHAT, {"messages": USER, "modalities": [1] * 20_000}, "modalities[0]"),
        ("/v1/embeddings", {"input": ["a", *[1] * 20_000]}, "input[0]"),
        ("/v1/embeddings", {"input": [{"type": 1}] * 20_000}, "input[0].type"),
        ("/v1/responses", {"input": [1] * 20_000}, "input[0]"),
        ("/v1/responses", {"input": [{"role": "user", "content": [1] * 20_000}]}, "input[0].content[0]"),
        ("/v1/responses", {"input": [{"type": "function_call_output", "output": [1] * 20_000}]}, "input[0].output[0]"),
        ("/v1/responses", {"input": "a", "tools": [1] * 20_000}, "tools[0]"),
        ("/v1/responses", {"input": "a", "include": [1] * 20_000}, "include[0]"),
        ("/v1/tasks/generate", {"example": {}, "shots": [1] * 20_000}, "shots[0]"),
    ],
)
def test_of_many_mistakes_the_first_are_enough(http, monkeypatch, path, body, param):
    """An error for each of the millions of items that a body may hold would hold up everybody."""
    counts, errors = [], RequestValidationError.errors
    monkeypatch.setattr(
        RequestValidationError, "errors", lambda self: [counts.append(len(found := errors(self))), found][1]
    )
    assert refused(http.post(path, json=body))["param"] == param
    assert counts == [pytest.approx(5, abs=4)]
