"""What a request may say beside its text: the field of a mistake is named, fields that change nothing are taken."""

import asyncio
import json
from types import SimpleNamespace

import openai
import pytest

from polytask.errors import ConfigError
from polytask.serving.asking import streamed
from polytask.serving.settings import Settings
from tests.inference.networks import TOKENIZER
from tests.serving.test_mistakes import CHAT, TEXT, USER, refused

RESPONSES, GENERATE = "/v1/responses", "/v1/tasks/generate"
SCHEMA = {"type": "nothing"}
PEOPLE = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
EXAMPLE = {"example": {"text": "a"}}
CALL = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "["}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": USER, "response_format": {"type": "regex", "pattern": "("}}, "response_format"),
        (CHAT, {"messages": USER, "response_format": PEOPLE}, "response_format"),
        (CHAT, {"messages": USER, "response_format": PEOPLE, "stream": True}, "response_format"),
        (GENERATE, {**EXAMPLE, "response_format": {"type": "regex", "pattern": "("}}, "response_format"),
        (RESPONSES, {"input": "a", "text": {"format": {"type": "json_schema", "schema": SCHEMA}}}, "text.format"),
        (RESPONSES, {"input": "a", "text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        (RESPONSES, {"input": "a", "text": {"format": {"type": "regex"}}}, "text.format.pattern"),
        (RESPONSES, {"input": "a", "truncation": "auto"}, "truncation"),
        (RESPONSES, {"input": "a", "max_tool_calls": 2}, "max_tool_calls"),
        (CHAT, {"messages": USER, "logit_bias": {"999999": 1}}, "logit_bias"),
        (CHAT, {"messages": USER, "min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        (CHAT, {"messages": USER, "min_tokens": 9, "response_format": {"type": "json_object"}}, "min_tokens"),
        (TEXT, {"prompt": "a", "beam_size": 2, "temperature": 1}, "beam_size"),
        (TEXT, {"prompt": "a", "beam_size": 2, "n": 3}, "beam_size"),
        (TEXT, {"prompt": "a", "beam_size": 99}, "beam_size"),
        (TEXT, {"prompt": "a", "best_of": 2, "n": 3}, "best_of"),
        (TEXT, {"prompt": "a", "echo": True, "max_tokens": 0, "stream": True}, "stream"),
        (RESPONSES, {"input": []}, "input"),
        (RESPONSES, {"instructions": "b", "input": [{"role": "user"}]}, "input[0].content"),
        (RESPONSES, {"input": [CALL | {"arguments": "{}", "name": None}]}, "input[0].name"),
        (RESPONSES, {"input": [{"type": "function_call_output", "call_id": "1"}]}, "input[0].output"),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 999}]}, "messages"),
        (TEXT, {"prompt": "x" * 999}, "prompt"),
        (RESPONSES, {"input": "x" * 999}, "input"),
    ],
)
def test_the_field_is_named(http, path, body, param):
    assert refused(http.post(path, json=body))["param"] == param


def test_a_choice_tells_its_tokens(http):
    asked = {"example": {"text": "Fine!", "labels": ["good", "bad"]}}
    first, again = (http.post("/v1/tasks/classify", json=asked).json()["usage"] for _ in range(2))
    assert first["completion_tokens"] == 0 < first["prompt_tokens"] == first["total_tokens"]
    assert first["prompt_tokens_details"]["cached_tokens"] <= again["prompt_tokens_details"]["cached_tokens"]


def test_mistakes_are_told_in_the_words_of_a_client(http):
    def said(path, body):
        return refused(http.post(path, json=body))["message"]

    assert said(CHAT, {"messages": USER, "response_format": PEOPLE}).startswith("'response_format': the JSON Schema")
    assert "max_output_tokens=8" in said(RESPONSES, {"input": "a", "min_tokens": 9, "max_output_tokens": 8})
    assert "max_completion_tokens=8" in said(CHAT, {"messages": USER, "min_tokens": 9, "max_completion_tokens": 8})
    assert "leave the response_format out" in said(
        CHAT, {"messages": USER, "beam_size": 2, "response_format": {"type": "json_object"}}
    )
    assert "at least 1" in said(RESPONSES, {"input": []})
    assert "task's own fields belong in 'example'" in said("/v1/tasks/translate", {"text": "Hallo", "target": "en"})
    for path, body in ((CHAT, {"messages": [{"role": "user", "content": "x" * 999}]}), (TEXT, {"prompt": "x" * 999})):
        assert "shorten it." in said(path, body)
        assert "pt.load" not in said(path, body)


def test_what_goes_wrong_in_a_stream_is_told_in_the_words_of_a_client():
    async def events():
        yield b"data: {}\n\n"
        raise ConfigError("guide: the pattern cannot be followed any further.", "guide")

    async def left():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message.get("body", b""))

    sent, freed = [], []
    http = SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace(settings=Settings())))
    served = SimpleNamespace(worker=SimpleNamespace(release=freed.append))
    stream = streamed(http, served, "job", events(), "input", guide="text.format")
    asyncio.run(stream({"state": {"note": {}}}, left, send))
    error = json.loads(sent[-2].removeprefix(b"data: "))["error"]
    assert (error["param"], freed) == ("text.format", ["job"])
    assert error["message"] == "'text.format': the pattern cannot be followed any further."


@pytest.mark.parametrize(
    ("path", "body", "name", "like"),
    [
        (CHAT, {"messages": USER, "temprature": 1}, "temprature", "temperature"),
        (TEXT, {"prompt": "a", "stream_options": {"with_usage": 1}}, "stream_options.with_usage", "include_usage"),
        (RESPONSES, {"input": "a", "max_tokens": 5}, "max_tokens", "max_output_tokens"),
        ("/v1/embeddings", {"input": "a", "dimension": 5}, "dimension", "dimensions"),
    ],
)  # fmt: skip
def test_the_nearest_field_is_named(http, path, body, name, like):
    error = refused(http.post(path, json=body))
    assert error["param"] == name
    assert error["message"] == f"Unrecognized request argument '{name}'; did you mean '{like}'?"


def test_fields_that_change_nothing_are_taken(client):
    words = {"model": "tiny", "messages": USER, "max_tokens": 4, "temperature": 0}
    plain = client.chat.completions.create(**words).choices[0].message.content
    usual = {
        "reasoning_effort": "none", "verbosity": "medium", "modalities": ["text"], "prediction": None, "store": False,
        "prompt_cache_retention": "in_memory", "audio": None, "moderation": None,
    }  # fmt: skip
    assert client.chat.completions.create(**words, **usual).choices[0].message.content == plain
    usual = {"reasoning": {"effort": "none"}, "text": {"verbosity": "medium"}, "prompt_cache_retention": "in_memory"}
    assert client.responses.create(model="tiny", input="a", max_output_tokens=2, store=False, **usual).output


@pytest.mark.parametrize(
    ("path", "more", "param"),
    [
        (CHAT, {"reasoning_effort": "high"}, "reasoning_effort"),
        (CHAT, {"verbosity": "low"}, "verbosity"),
        (CHAT, {"modalities": ["text", "audio"]}, "modalities"),
        (CHAT, {"audio": {"voice": "a", "format": "wav"}}, "audio"),
        (CHAT, {"prediction": {"type": "content", "content": "a"}}, "prediction"),
        (CHAT, {"functions": [{"name": "f"}]}, "functions"),
        (CHAT, {"web_search_options": {"a": 1}}, "web_search_options"),
        (RESPONSES, {"reasoning": {"effort": "high"}}, "reasoning.effort"),
        (RESPONSES, {"text": {"verbosity": "low"}}, "text.verbosity"),
    ],
)
def test_fields_that_would_need_what_is_not_there_are_refused(http, path, more, param):
    body = {"messages": USER} if path == CHAT else {"input": "a"}
    error = refused(http.post(path, json={**body, **more}))
    assert (error["param"], error["code"]) == (param, "unsupported_value")


def test_a_form_may_be_cut_by_a_stop(client):
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": {"name": "Ann", "old": True}}}}
    words = {"model": "tiny", "messages": USER, "max_tokens": 200, "seed": 1, "response_format": form}
    whole = client.chat.completions.create(**words).choices[0].message.content
    assert json.loads(whole) == {"name": "Ann", "old": True}
    cut = client.chat.completions.create(**words, stop=["Ann"]).choices[0]
    assert (cut.finish_reason, cut.message.content) == ("stop", whole.partition("Ann")[0])


def test_what_an_assistant_refused_is_read_as_its_text(client):
    words = {"model": "tiny", "max_tokens": 6, "temperature": 0}

    def answered(said: dict) -> str:
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", **said}, {"role": "user", "content": "b"}]
        return client.chat.completions.create(messages=turns, **words).choices[0].message.content

    plain = answered({"content": "No."})
    assert answered({"content": [{"type": "refusal", "refusal": "No."}]}) == plain
    assert answered({"content": None, "refusal": "No."}) == plain
    assert answered({"content": "Yes, I will."}) != plain


def test_responses_take_the_dials_of_other_routes(client):
    forced = str(TOKENIZER.encode("x")[0])
    more = {"top_k": 5, "seed": 3, "min_tokens": 4, "repetition_penalty": 1.1, "stop": ["xxx"], "priority": 1}
    words = {"model": "tiny", "input": "a", "max_output_tokens": 8}
    first, second = (client.responses.create(**words, extra_body=more).output_text for _ in range(2))
    assert first == second
    assert client.responses.create(**words, extra_body={"logit_bias": {forced: 100}}).output_text == "xxxxxxxx"
    text = {"format": {"type": "regex", "pattern": "[ab]{3}"}}
    assert set(client.responses.create(**words, text=text).output_text) <= {"a", "b"}
    with pytest.raises(openai.BadRequestError, match="Unrecognized request argument 'n'"):
        client.responses.create(**words, extra_body={"n": 2})


def test_usage_tells_what_the_cache_knew(client):
    prompt = "A dog and a cat sit on a mat, and a bird looks at both of them from its tree, and it sings."
    words = {"model": "tiny", "prompt": prompt, "max_tokens": 3, "n": 2}
    usages = [client.completions.create(**words).usage for _ in range(2)]
    assert usages[0].prompt_tokens_details.cached_tokens == 0
    assert 0.7 * usages[1].prompt_tokens < usages[1].prompt_tokens_details.cached_tokens < usages[1].prompt_tokens
    several = client.completions.create(model="tiny", prompt=[prompt, prompt[::-1]], max_tokens=3).usage
    assert several.prompt_tokens_details.cached_tokens == usages[1].prompt_tokens_details.cached_tokens
    *_, last = client.completions.create(**words, stream=True, stream_options={"include_usage": True})
    assert last.usage.prompt_tokens_details == usages[1].prompt_tokens_details
    messages = [{"role": "user", "content": prompt[10:]}]
    for known in (False, True):
        usage = client.chat.completions.create(model="tiny", messages=messages, max_tokens=3).usage
        assert bool(usage.prompt_tokens_details.cached_tokens) == known
    answer = client.responses.create(model="tiny", input=prompt[10:], max_output_tokens=3).usage
    assert answer.input_tokens_details.cached_tokens == usage.prompt_tokens_details.cached_tokens
