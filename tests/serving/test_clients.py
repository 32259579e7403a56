"""What the official client gets, of every route, at once and streamed, from threads and from asyncio."""

import asyncio
import base64
import json
import re

import numpy as np
import openai
import pytest
import torch

from polytask.nn.cache import Context
from polytask.tasks import Text
from polytask.tokenizers.encode import prompt_ids
from tests.inference.networks import TOKENIZER
from tests.serving.conftest import engine_of

HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello!"}]
FEW = {"max_tokens": 8, "temperature": 0}


def model_of(server, name="tiny"):
    return server[1].state.shelf.get(name).model


def test_models_are_listed_and_found(client):
    assert [model.id for model in client.models.list()] == ["tiny", "other/two"]
    assert client.models.retrieve("other/two").id == "other/two"
    with pytest.raises(openai.NotFoundError, match="did you mean 'tiny'"):
        client.models.retrieve("tinny")


def test_chat_says_what_the_model_says(client, server):
    expected = model_of(server).chat("Hello!", system="Be brief.", details=True, **FEW).completion
    answer = client.chat.completions.create(model="tiny", messages=HELLO, **FEW)
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == expected.finish == "length"
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]
    as_parts = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    again = client.chat.completions.create(model="tiny", messages=as_parts, **FEW)
    assert again.choices[0].message.content == expected.text


def test_streamed_chat_is_the_same_text(client):
    whole = client.chat.completions.create(model="tiny", messages=HELLO, n=2, seed=3, max_tokens=8)
    texts, finishes, usage = ["", ""], [None, None], None
    stream = client.chat.completions.create(
        model="tiny", messages=HELLO, n=2, seed=3, max_tokens=8, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finishes[choice.index] = choice.finish_reason or finishes[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert finishes == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage
    assert texts[0] != texts[1]


def test_without_the_wish_no_usage_is_streamed(client):
    chunks = list(client.chat.completions.create(model="tiny", messages=HELLO, stream=True, **FEW))
    assert all(len(chunk.choices) == 1 for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"


def test_log_probabilities_of_a_chat(client, server):
    answer = client.chat.completions.create(model="tiny", messages=HELLO, logprobs=True, top_logprobs=3, **FEW)
    tokens = answer.choices[0].logprobs.content
    assert (
        bytes(b for token in tokens for b in token.bytes).decode(errors="replace") == answer.choices[0].message.content
    )
    streamed = [
        token
        for chunk in client.chat.completions.create(
            model="tiny", messages=HELLO, logprobs=True, top_logprobs=3, stream=True, **FEW
        )
        for token in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else [])
    ]
    assert streamed == tokens
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.logprob <= token.top_logprobs[0].logprob


def test_completions_of_texts_and_of_ids(client, server):
    model = model_of(server)
    expected = model.generate("Once", **FEW)
    assert client.completions.create(model="tiny", prompt="Once", **FEW).choices[0].text == expected
    ids = prompt_ids([Text("Once", target=True)], TOKENIZER)
    assert client.completions.create(model="tiny", prompt=ids, **FEW).choices[0].text == expected
    several = client.completions.create(model="tiny", prompt=["Once", "Twice"], n=2, seed=1, max_tokens=4)
    alone = client.completions.create(model="tiny", prompt="Twice", n=2, seed=1, max_tokens=4)
    assert [choice.text for choice in several.choices][2:] == [choice.text for choice in alone.choices]
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    streamed = ["", ""]
    for chunk in client.completions.create(model="tiny", prompt=[ids, ids], stream=True, **FEW):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == [expected, expected]


def test_echo_gives_the_network_s_own_likelihoods(client, server):
    model, ids = model_of(server), prompt_ids([Text("A dog.", target=True)], TOKENIZER)
    with torch.no_grad():
        states = model.network(torch.tensor([ids]), Context(torch.arange(len(ids))[None]))
        logprobs = model.network.logits(states[0]).log_softmax(-1)
    expected = [float(logprobs[place, token]) for place, token in enumerate(ids[1:])]
    answer = client.completions.create(model="tiny", prompt="A dog.", echo=True, logprobs=2, max_tokens=0)
    assert answer.choices[0].text == "A dog."
    assert answer.choices[0].logprobs.tokens == list("A dog.")
    assert answer.choices[0].logprobs.token_logprobs == pytest.approx(expected, abs=1e-4)
    assert answer.choices[0].logprobs.text_offset == list(range(6))
    more = {"min_tokens": 2}  # an answer drawn by chance may end before
    by_ids = client.completions.create(model="tiny", prompt=ids, echo=True, logprobs=2, max_tokens=2, extra_body=more)
    assert by_ids.choices[0].logprobs.token_logprobs[0] is None
    assert by_ids.choices[0].logprobs.token_logprobs[1:7] == pytest.approx(expected, abs=1e-4)
    assert len(by_ids.choices[0].logprobs.tokens) == len(ids) + 2


def test_biases_bests_and_stops(client):
    forced = TOKENIZER.encode("x")[0]
    answer = client.completions.create(model="tiny", prompt="A", logit_bias={str(forced): 100}, max_tokens=5, seed=1)
    assert answer.choices[0].text == "xxxxx"
    stopped = client.completions.create(
        model="tiny", prompt="A", logit_bias={str(forced): 100}, max_tokens=9, stop=["xxx"]
    )
    assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == ("", "stop")
    one = client.completions.create(model="tiny", prompt="A", best_of=3, seed=5, max_tokens=4)
    all_ = client.completions.create(model="tiny", prompt="A", n=3, seed=5, max_tokens=4)
    assert one.choices[0].text in {choice.text for choice in all_.choices}


def test_embeddings_are_means_of_final_states(client, server):
    model = model_of(server)
    one = client.embeddings.create(model="tiny", input=["A dog.", "A long sentence about cats."])
    ids = prompt_ids([Text("A dog.", target=True)], TOKENIZER)
    with torch.no_grad():
        states = model.network(torch.tensor([ids]), Context(torch.arange(len(ids))[None]))[0]
    expected = torch.nn.functional.normalize(states.mean(0), dim=0)
    assert one.data[0].embedding == pytest.approx(expected.tolist(), abs=1e-5)
    assert [round(float(np.linalg.norm(entry.embedding)), 4) for entry in one.data] == [1.0, 1.0]
    raw = client.embeddings.with_raw_response.create(model="tiny", input="A dog.", encoding_format="base64")
    text = raw.http_response.json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(text), "<f4").tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_responses_at_once_and_streamed(client):
    words = {"model": "tiny", "instructions": "Be brief.", "input": "Hello!", "temperature": 0}
    whole = client.responses.create(**words, max_output_tokens=8)
    chat = client.chat.completions.create(model="tiny", messages=HELLO, **FEW)
    assert whole.output_text == chat.choices[0].message.content
    assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert [item.status for item in whole.output] == ["incomplete"]
    assert whole.usage.output_tokens == 8
    events = list(client.responses.create(**words, max_output_tokens=8, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.output_text.delta", "response.output_text.done", "response.content_part.done",
        "response.output_item.done", "response.incomplete",
    ]  # fmt: skip
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].response.output_text == whole.output_text
    assert [event.item.status for event in events if event.type == "response.output_item.done"] == ["incomplete"]
    assert [item.status for item in events[-1].response.output] == ["incomplete"]
    ended = {"stop": [" "], "logit_bias": {str(TOKENIZER.encode(" ")[0]): 100}}
    whole = client.responses.create(**words, max_output_tokens=8, extra_body=ended)
    assert (whole.status, whole.output[0].status) == ("completed", "completed")
    events = list(client.responses.create(**words, max_output_tokens=8, extra_body=ended, stream=True))
    assert [event.item.status for event in events if event.type == "response.output_item.done"] == ["completed"]


def test_log_probabilities_of_a_response(client):
    words = {"model": "tiny", "input": "Hello.", "temperature": 0, "max_output_tokens": 8, "top_logprobs": 2,
             "include": ["message.output_text.logprobs"]}  # fmt: skip
    text = client.responses.create(**words).output[0].content[0]
    chat = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hello."}], logprobs=True, top_logprobs=2, **FEW
    ).choices[0]
    assert [token.logprob for token in text.logprobs] == [token.logprob for token in chat.logprobs.content]
    assert all(len(token.top_logprobs) == 2 for token in text.logprobs)
    events = list(client.responses.create(**words, stream=True))
    streamed = [token for event in events if event.type == "response.output_text.delta" for token in event.logprobs]
    ended = next(event for event in events if event.type == "response.output_text.done")
    assert [token.logprob for token in ended.logprobs] == [token.logprob for token in text.logprobs]
    assert [token.token for token in streamed] == [token.token for token in text.logprobs[: len(streamed)]]
    with pytest.raises(openai.BadRequestError, match="top_logprobs"):
        client.responses.create(**{**words, "include": None})


def test_responses_keep_nothing(client):
    words = {"model": "tiny", "input": "And?"}
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        client.responses.create(**words, previous_response_id="resp_1")
    with pytest.raises(openai.NotFoundError, match="keeps no responses"):
        client.responses.retrieve("resp_1")
    items = [{"role": "user", "content": "Hello!"}, {"type": "message", "role": "assistant", "content": "Hi."},
             {"role": "user", "content": [{"type": "input_text", "text": "And?"}]}]  # fmt: skip
    assert client.responses.create(model="tiny", input=items, max_output_tokens=3).output[0].type == "message"


def test_asyncio_and_many_at_once(server):
    """All clients get what each alone would get."""

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{server[0]}/v1", api_key="none", timeout=60) as client:
            prompts = [f"Number {i}" for i in range(24)]
            asked = [client.completions.create(model="tiny", prompt=p, max_tokens=6, temperature=0) for p in prompts]
            answers = await asyncio.gather(*asked)
            stream = await client.chat.completions.create(model="tiny", messages=HELLO, stream=True, **FEW)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            return prompts, [answer.choices[0].text for answer in answers], text

    prompts, texts, text = asyncio.run(ask())
    model = model_of(server)
    assert texts == [model.generate(prompt, max_tokens=6, temperature=0) for prompt in prompts]
    assert text == model.chat("Hello!", system="Be brief.", **FEW)
    assert not engine_of(server[1]).scheduler.running


SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Ann", "Bo"]}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}


def test_answers_of_a_form(client, http):
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    words = {"model": "tiny", "messages": HELLO, "max_tokens": 200, "seed": 1}
    answer = client.chat.completions.create(**words, response_format=form)
    assert set(json.loads(answer.choices[0].message.content)) == {"name", "old"}
    stream = client.chat.completions.create(**words, response_format=form, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in stream) == answer.choices[0].message.content
    text = {"format": {"type": "json_schema", "name": "person", "schema": SCHEMA}}
    response = client.responses.create(model="tiny", input="Who?", text=text, max_output_tokens=200)
    assert set(json.loads(response.output_text)) == {"name", "old"}
    assert response.text.format.schema_ == SCHEMA
    body = {"example": {"text": "a"}, "response_format": {"type": "regex", "pattern": "[ab]{3}c"}}
    assert re.fullmatch("[ab]{3}c", http.post("/v1/tasks/generate", json=body).json()["answers"][0]["answer"])
    for bad in ({"type": "json_schema"}, {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}},
                {"type": "regex", "pattern": "("}, {"type": "xml"}):  # fmt: skip
        assert http.post("/v1/chat/completions", json={"messages": HELLO, "response_format": bad}).status_code == 400
