"""/v1/embeddings of a CLIP: the official client gets what the model gives from Python, of texts and of pictures."""

import base64
import threading
from contextlib import contextmanager

import httpx
import numpy as np
import openai
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

import polytask
from polytask.model import Model
from polytask.serving.routes import embeddings
from polytask.serving.server import load
from polytask.tasks.picture import decode, fitted, png
from polytask.tokenizers.text import TextTokenizer
from tests.inference.networks import network
from tests.painters import LENGTH, picture, write_clip
from tests.serving import artists
from tests.serving.artists import url
from tests.serving.conftest import running, tiny, until
from tests.serving.test_mistakes import refused

TEXTS = ["a red circle", "two small green squares", "a"]
LOADING = {"dtype": "float32", "int8": False, "int4": False, "draft": None, "truncate": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("models") / "clip")


@contextmanager
def serving(folder, **limits):
    found = load({"clip": str(folder)}, LOADING)
    models = {"texts": tiny(64), "tokens": artists.by_tokens(), **found}
    with running(models, **limits) as (address, app):
        yield address, app


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder) as found:
        yield found


@pytest.fixture(scope="module")
def clip(folder):
    return polytask.load(folder)


def part(data):
    return {"type": "image_url", "image_url": {"url": url(data)}}


def close(answer, expected):
    found = [one.embedding for one in sorted(answer.data, key=lambda one: one.index)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_texts_are_embedded(client, clip):
    close(client.embeddings.create(model="clip", input=TEXTS), clip.embed(TEXTS))  # base64 by itself
    answer = client.embeddings.create(model="clip", input=TEXTS[0], encoding_format="float", dimensions=16)
    close(answer, clip.embed(TEXTS[0]))
    assert answer.usage.prompt_tokens == len(clip.matcher.tokens(TEXTS[:1])[0]) == answer.usage.total_tokens
    many = [f"{number} circles" for number in range(150)]
    close(client.embeddings.create(model="clip", input=many), clip.embed(many))


def test_pictures_are_embedded_among_texts(client, clip):
    pictures = [png(picture(seed, side)) for seed, side in ((0, 8), (1, 40), (2, 8))]
    expected = clip.embed(pictures)
    given = [part(pictures[0]), TEXTS[1], part(pictures[1]), {"type": "text", "text": TEXTS[0]}, part(pictures[2])]
    answer = client.embeddings.create(model="clip", input=given)
    texts = clip.embed([TEXTS[1], TEXTS[0]])
    close(answer, np.stack([expected[0], texts[0], expected[1], texts[1], expected[2]]))
    many = [png(picture(seed)) for seed in range(70)]
    close(client.embeddings.create(model="clip", input=[part(one) for one in many]), clip.embed(many))


def test_a_message_is_embedded_as_vllm_takes_it(client, http, clip):
    """vLLM's own client posts so, by way of the official one."""
    wide = artists.picture((20, 12), form="JPEG")
    body = {"model": "clip", "messages": [{"role": "user", "content": [part(wide)]}], "encoding_format": "float"}
    answer = client.post("/embeddings", body=body, cast_to=openai.types.CreateEmbeddingResponse)
    close(answer, clip.embed(wide))
    said = {"model": "clip", "messages": [{"role": "user", "content": TEXTS[0]}]}
    vector = http.post("/v1/embeddings", json=said).json()["data"][0]["embedding"]
    np.testing.assert_allclose([vector], clip.embed(TEXTS[0]), atol=1e-5)


def test_a_picture_goes_to_the_model_that_reads_it(http, clip):
    """Where no model is named."""
    answer = http.post("/v1/embeddings", json={"input": [part(artists.picture())]}).json()
    assert answer["model"] == "clip"
    assert http.post("/v1/embeddings", json={"input": "a"}).json()["model"] == "texts"


@pytest.mark.parametrize("templates", [None, ["a {}", "{}"]])
def test_pictures_are_classified_by_labels_named_when_asked(http, clip, templates):
    data = artists.picture()
    example = {"image": url(data), "labels": ["a red", "green", "a"]} | ({"templates": templates} if templates else {})
    answer = http.post("/v1/tasks/classify", json={"model": "clip", "example": example}).json()
    expected = clip.probabilities([png(fitted(decode(data), 8))], example["labels"], templates)[0]
    assert answer["answers"][0]["probabilities"] == pytest.approx(expected, abs=1e-5)
    assert answer["answers"][0]["answer"] == max(expected, key=expected.get)
    unnamed = http.post("/v1/tasks/classify", json={"example": example}).json()
    assert unnamed["model"] == "tokens", "the first model that reads pictures"


def test_a_text_alone_is_no_question_for_a_clip(folder):
    with running(load({"clip": str(folder)}, LOADING)) as (address, _):
        asked = {"example": {"text": "a", "labels": TEXTS}}
        assert "'image' is missing" in refused(httpx.post(f"{address}/v1/tasks/classify", json=asked))["message"]


def test_many_labels_are_read_one_by_one_and_each_counts_once(http):
    example = {"image": url(artists.picture()), "labels": [*(f"a {i}" for i in range(511)), "a 0"]}
    answer = http.post("/v1/tasks/classify", json={"model": "clip", "example": example}).json()["answers"][0]
    assert len(answer["probabilities"]) == 511
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_a_column_that_a_task_lacks_is_no_picture(http):
    asked = {"example": {"text": "a", "image": "photo.png"}, "max_tokens": 2}
    assert http.post("/v1/tasks/generate", json=asked).json()["model"] == "texts"


@pytest.mark.parametrize(
    ("example", "more", "words"),
    [
        ({"labels": TEXTS}, {}, "image"),
        ({"image": "x y", "labels": TEXTS}, {}, "example.image"),
        ({"image": url(b"GIF89a"), "labels": TEXTS}, {}, "example.image"),
        ({"labels": TEXTS[:1]}, {}, "two different texts or more"),
        ({"labels": TEXTS, "templates": ["no place"]}, {}, "single {}"),
        ({"labels": ["a", "long " * 40]}, {}, "this CLIP reads"),
        ({"labels": ["a", "x" * 500_000]}, {}, "no 24 tokens hold"),
        ({"labels": [str(i) for i in range(600)]}, {}, "512 texts are the most"),
        ({"labels": ["a", "b"], "templates": ["{}" + "x" * 500_000]}, {}, "no 24 tokens hold"),
        ({"labels": TEXTS}, {"temperature": 0.5}, "'temperature'"),
        ({"labels": TEXTS}, {"steps": 5}, "'steps'"),
        ({"labels": TEXTS}, {"shots": [{}]}, "'shots'"),
    ],
)
def test_mistakes_of_classifying_are_told(http, example, more, words):
    if words not in ("image", "example.image"):
        example = {"image": url(artists.picture()), **example}
    said = refused(http.post("/v1/tasks/classification", json={"model": "clip", "example": example, **more}))
    assert words in said["message"]


def test_what_is_told_of_it(http, clip):
    about = http.get("/v1/models/clip").json()
    assert (about["pixels"], about["max_model_len"], about["tasks"]) == (8, LENGTH, ["classification"])
    assert about["parameters"] == clip.info["parameters"]
    (task,) = http.get("/v1/tasks", params={"model": "clip"}).json()["data"]
    assert (task["path"], list(task["fields"])) == ("/v1/tasks/classify", ["image", "labels", "templates"])
    assert http.get("/health").status_code == 200
    assert 'polytask_running{model="clip"} 0.0' in http.get("/metrics").text
    said = refused(http.post("/v1/chat/completions", json={"model": "clip", "messages": []}))
    assert said["param"] == "messages"
    hello = [{"role": "user", "content": "a"}]
    assert (
        "ask 'texts'"
        in refused(http.post("/v1/chat/completions", json={"model": "clip", "messages": hello}))["message"]
    )


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"model": "texts", "input": [part(artists.picture())]}, "input[0].image_url", "ask a CLIP"),
        ({"model": "tokens", "input": ["a", part(artists.picture())]}, "input[1].image_url", "texts alone"),
        ({}, "input", "give a text"),
        ({"input": ""}, "input", "empty"),
        ({"input": ["a", ""]}, "input[1]", "empty"),
        ({"input": []}, "input", ""),
        ({"input": [5, 6]}, "input", "not by ids"),
        ({"input": ["a", "long " * 40]}, "input[1]", "this CLIP reads"),
        ({"input": "x" * 500_000}, "input", "no 24 tokens hold"),
        ({"input": [part(b"GIF89a")]}, "input[0].image_url", "picture"),
        ({"input": ["a", part(artists.picture()[:60])]}, "input[1].image_url", "broken"),
        ({"input": [{"type": "image_url", "image_url": "https://a.b/c.png"}]}, "input[0].image_url", "fetches"),
        ({"input": [{"type": "image_url"}]}, "input[0]", "data URL"),
        ({"input": ["a"] * 2049}, "input", "2048"),
        ({"input": "a", "dimensions": 8}, "dimensions", "have 16 numbers"),
        ({"input": "a", "messages": [{"role": "user", "content": "a"}]}, "messages", "not both"),
        ({"messages": [{"role": "user", "content": [part(artists.picture())] * 2}]}, "messages", "one text or picture"),
        ({"messages": [{"role": "user", "content": []}]}, "messages", "one text or picture"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages[0].content", "empty"),
        ({"messages": [{"role": "user", "content": [part(b"no")]}]}, "messages[0].content[0].image_url", "no picture"),
    ],
)  # fmt: skip
def test_mistakes_name_the_field(http, body, param, words):
    error = refused(http.post("/v1/embeddings", json={"model": "clip", **body}))
    assert (error["param"], error["message"].count(". ")) == (param, 0)
    assert words in error["message"]


def test_a_text_without_tokens_is_empty():
    """An encoder whose tokenizer has no ids for blanks, and which puts nothing in front, as T5's."""
    made = Tokenizer(models.WordLevel({"</s>": 0, "<unk>": 1, "a": 2}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["</s>"])
    tokenizer = TextTokenizer(made)
    model = Model(network("transformer", vocab_size=tokenizer.vocab_size), tokenizer)
    with running({"encoder": model}) as (address, _), httpx.Client(base_url=address, timeout=60) as client:
        for given, param in ((" ", "input"), (["a", " \n"], "input[1]"), ([" ", "a"], "input[0]")):
            error = refused(client.post("/v1/embeddings", json={"input": given}))
            assert error["param"] == param
            assert f"'{param}' is empty" in error["message"]
        assert client.post("/v1/embeddings", json={"input": ["a", " a"]}).status_code == 200


def test_a_full_queue_and_a_text_that_is_too_long_have_their_codes(folder):
    with serving(folder, queue=1) as (address, app), httpx.Client(base_url=address, timeout=60) as client:
        long = refused(client.post("/v1/embeddings", json={"model": "clip", "input": "long " * 40}))
        assert long["code"] == "context_length_exceeded"
        worker = app.state.shelf.get("clip").worker
        worker.taken += 2
        said = refused(client.post("/v1/embeddings", json={"model": "clip", "input": "a"}), 429)
        assert said["code"] == "queue_full"
        worker.taken -= 2
        assert client.post("/v1/embeddings", json={"model": "clip", "input": "a"}).status_code == 200
        until(lambda: worker.taken == 0)


def test_a_text_is_read_as_far_as_a_prompt():
    """As far as `max_model_len` says, which a small cache bounds."""
    model = tiny(256)
    model.engine = type(model.engine)(model.network, model.tokenizer, max_length=64)
    with running({"tiny": model}) as (address, _), httpx.Client(base_url=address, timeout=60) as client:
        assert client.get("/v1/models/tiny").json()["max_model_len"] == 64
        assert client.post("/v1/embeddings", json={"input": "a" * 63}).json()["usage"]["prompt_tokens"] == 64
        error = refused(client.post("/v1/embeddings", json={"input": "a" * 64}))
        assert (error["code"], "64 are read at most" in error["message"]) == ("context_length_exceeded", True)


def test_others_have_their_turn_while_vectors_are_written(http, clip, monkeypatch):
    """Each is written by itself, away from the event loop."""
    threads, write = [], embeddings.written

    def noted(content):
        threads.append(threading.current_thread())
        return write(content)

    monkeypatch.setattr(embeddings, "written", noted)
    answer = http.post("/v1/embeddings", json={"model": "clip", "input": TEXTS}).json()
    np.testing.assert_allclose([one["embedding"] for one in answer["data"]], clip.embed(TEXTS), atol=1e-5)
    assert [one["index"] for one in answer["data"]] == [0, 1, 2]
    assert len(threads) == 4
    assert all(thread.name.startswith("asyncio_") for thread in threads)


def test_where_no_model_reads_pictures():
    with running() as (address, _), httpx.Client(base_url=address) as client:
        body = {"input": [part(artists.picture())]}
        assert "serve one that does" in refused(client.post("/v1/embeddings", json=body), 501)["message"]


def test_what_is_written_is_little_endian(http, clip):
    body = {"model": "clip", "input": "a", "encoding_format": "base64"}
    text = http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    np.testing.assert_allclose([np.frombuffer(base64.b64decode(text), "<f4")], clip.embed("a"), atol=1e-5)
