"""What can be wrong with a request for pictures: one sentence that names the field, and the others are unharmed."""

import struct
import zlib

import httpx
import pytest

from tests.inference.networks import TOKENIZER
from tests.serving.artists import by_label, by_tokens, diffusion, hole, picture, url
from tests.serving.conftest import running, tiny
from tests.serving.test_mistakes import refused

DRAW, EDIT, VARY = (f"/v1/images/{name}" for name in ("generations", "edits", "variations"))
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def http():
    models = {"texts": tiny(), "diffusion": diffusion(), "labels": by_label(), "tokens": by_tokens()}
    with running(models) as (address, _), httpx.Client(base_url=address, timeout=60) as client:
        yield client


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "prompt", "required"),
        ({"prompt": 5}, "prompt", "string"),
        ({"prompt": ""}, "prompt", "at least 1"),
        ({"prompt": "a", "n": 0}, "n", "greater than or equal to 1"),
        ({"prompt": "a", "n": 11}, "n", "less than or equal to 10"),
        ({"prompt": "a", "steps": 0}, "steps", "greater"),
        ({"prompt": "a", "steps": 1001}, "steps", "less"),
        ({"prompt": "a", "steps": 101}, "steps", "from 1 to 100"),
        ({"prompt": "a", "guidance": -1}, "guidance", "greater"),
        ({"prompt": "a", "guidance": 1000}, "guidance", "less"),
        ({"prompt": "a", "seed": -1}, "seed", "greater"),
        ({"prompt": "a", "size": "512x512"}, "size", "8x8"),
        ({"prompt": "a", "response_format": "url"}, "response_format", "keeps no pictures"),
        ({"prompt": "a", "quality": "hd"}, "quality", "auto"),
        ({"prompt": "a", "stream": True}, "stream", "Unrecognized"),
        ({"prompt": "a", "sampler": "eular"}, "sampler", "did you mean 'euler'?"),
        ({"prompt": "a", "threshold": "dynamical"}, "threshold", "dynamic"),
        ({"prompt": "a", "temperature": 1}, "temperature", "by diffusion"),
        ({"prompt": "a", "model": "tokens", "steps": 5}, "steps", "token by token"),
        ({"prompt": "circel", "model": "labels"}, None, "did you mean 'circle'?"),
        ({"prompt": "a", "model": "texts"}, "model", "ask 'diffusion'"),
    ],
)
def test_generations_name_the_field(http, body, param, words):
    error = refused(http.post(DRAW, json=body))
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("more", [{}, {"image": url(picture())}])
def test_pictures_have_no_log_probabilities(http, stream, more):
    verb, said = ("edit", {"instruction": "a", **more}) if more else ("draw", {"caption": "a"})
    asked = {"model": "tokens", "example": said, "stream": stream}
    error = refused(http.post(f"/v1/tasks/{verb}", json={**asked, "logprobs": 1}))
    assert (error["param"], "leave it out" in error["message"]) == ("logprobs", True)
    assert http.post(f"/v1/tasks/{verb}", json={**asked, "logprobs": 0}).status_code == 200


def test_log_probabilities_are_of_texts(http):
    """The network's last rows are of pictures; no text has them, and they are left out of what is likely."""
    known = {TOKENIZER.decode([i], special=True) for i in range(TOKENIZER.vocab_size)}
    words = {"model": "tokens", "max_tokens": 4, "temperature": 0}
    body = {"messages": [{"role": "user", "content": "a"}], "logprobs": True, "top_logprobs": 20}
    answer = http.post(CHAT, json={**words, **body}).json()["choices"][0]["logprobs"]["content"]
    assert {0 < len(place["top_logprobs"]) <= 20 for place in answer} == {True}
    assert any(len(place["top_logprobs"]) < 20 for place in answer)
    body = {"prompt": "A few words.", "logprobs": 20, "echo": True}
    texts = http.post("/v1/completions", json={**words, **body}).json()["choices"][0]["logprobs"]["top_logprobs"]
    assert all(set(place) <= known for place in texts[1:])
    body = {"example": {"text": "A few"}, "logprobs": 20, "model": "tokens"}
    assert http.post("/v1/tasks/generate", json=body).status_code == 200


def test_prompts_that_are_too_long(http):
    for model in ("diffusion", "tokens"):
        error = refused(http.post(DRAW, json={"model": model, "prompt": "a" * 5000}))
        assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
        assert "truncate" not in error["message"]


def bomb(width: int, height: int) -> bytes:
    """A PNG that says to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("files", "fields", "param", "words"),
    [
        ({"mask": hole()}, {}, "image", "required"),
        ({"image": picture()}, {"prompt": None}, "prompt", "required"),
        ({"image": b""}, {}, "image", "empty"),
        ({"image": b"GIF89a"}, {}, "image", "picture"),
        ({"image": picture()[:60]}, {}, "image", "broken"),
        ({"image": bomb(60_000, 60_000)}, {}, "image", "is the most"),
        ({"image": bomb(0, 5)}, {}, "image", ""),
        ({"image": picture((9, 8)), "mask": hole()}, {}, "image", "9 x 8 pixels"),
        ({"image": picture(), "mask": hole((16, 16))}, {}, "mask", "16 x 16 pixels"),
        ({"image": picture(), "mask": picture()}, {}, "mask", "transparent"),
        ({"image": picture()}, {}, "image", "transparent"),
        ({"image": picture(), "mask": b"x"}, {}, "mask", "no picture"),
        ({"image": picture(), "mask": hole()}, {"n": "many"}, "n", "integer"),
        ({"image": picture(), "mask": hole()}, {"nn": "1"}, "nn", "Unrecognized"),
        ({"image": picture(), "mask": hole()}, {"model": "tokens"}, "mask", "as the prompt says"),
        ({"image": picture(), "mask": hole()}, {"model": "texts"}, "model", "ask 'diffusion'"),
    ],
)
def test_edits_name_the_field(http, files, fields, param, words):
    data = {name: value for name, value in {"prompt": "a", **fields}.items() if value is not None}
    error = refused(http.post(EDIT, data=data, files=files))
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize(
    "file",
    [
        picture(mode="RGBA"), picture(mode="LA"), picture(mode="CMYK", form="JPEG"), picture(mode="I;16", form="TIFF"),
        picture(mode="P"), picture(mode="1"), picture(form="WEBP"), picture(form="BMP"),
        picture(form="GIF", mode="P", save_all=True),
    ],
)  # fmt: skip
def test_pictures_of_all_kinds_are_read(http, file):
    answer = http.post(EDIT, data={"prompt": "a", "steps": "2"}, files={"image": file, "mask": hole()})
    assert answer.status_code == 200, answer.text
    part = {"type": "image_url", "image_url": {"url": url(file)}}
    body = {"model": "tokens", "messages": [{"role": "user", "content": [part]}], "max_tokens": 2}
    assert http.post(CHAT, json=body).status_code == 200


def test_variations_where_no_model_draws_any(http):
    task = {"model": "diffusion", "example": {"image": url(picture())}}
    for answer in (http.post(VARY, files={"image": picture()}), http.post("/v1/tasks/variations", json=task)):
        error = refused(answer, 501)
        assert (error["code"], error["param"]) == ("not_implemented", "model")


def test_several_files_are_too_many(http):
    files = [("image[]", ("a.png", picture())), ("image[]", ("b.png", picture()))]
    assert refused(http.post(EDIT, data={"prompt": "a"}, files=files))["param"] == "image"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"--", b"--b--\r\n", b"--b\r\n\r\n--b--", b"--b\r\nContent-Disposition: form-data\r\n\r\na\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xff\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n', b"--b\r\n" * 100_000,
        b'--b\r\nContent-Disposition: form-data; name="\r\n\r\na\r\n--b--', b"{}",
    ],
)  # fmt: skip
def test_bodies_that_are_no_form(http, body):
    refused(http.post(EDIT, content=body, headers={"content-type": "multipart/form-data; boundary=b"}))


def test_other_kinds_of_content(http):
    assert "multipart/form-data" in refused(http.post(EDIT, json={"prompt": "a"}), 415)["message"]
    refused(http.post(EDIT, content=b"--b--", headers={"content-type": "multipart/form-data"}), 415)
    refused(http.post(DRAW, data={"prompt": "a"}, files={"image": picture()}), 415)
    refused(http.get(DRAW), 405)


def test_forms_of_pages_elsewhere_are_refused(http):
    """A browser sends a form to anybody without asking, as it would not JSON."""
    asked = {"data": {"prompt": "a", "steps": "1"}, "files": {"image": hole()}}
    for origin in ("https://evil.example", "null"):
        refused(http.post(EDIT, **asked, headers={"origin": origin, "sec-fetch-site": "cross-site"}), 403)
        refused(http.post(EDIT, **asked, headers={"origin": origin}), 403)
    own = str(http.base_url)
    assert http.post(EDIT, **asked, headers={"origin": own}).status_code == 200
    with running({"a": diffusion()}, cors=("https://page.example",)) as (address, _):
        answer = httpx.post(address + EDIT, **asked, headers={"origin": "https://page.example"})
        assert answer.status_code == 200


def parts(*parts):
    return [{"role": "user", "content": list(parts)}]


@pytest.mark.parametrize(
    ("model", "part", "words"),
    [
        ("texts", {"type": "image_url", "image_url": {"url": url(picture())}}, "reads texts alone"),
        ("tokens", {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}, "fetches nothing"),
        ("tokens", {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "fetches nothing"),
        ("tokens", {"type": "image_url", "image_url": {"url": "data:image/png,abc"}}, "no data URL in base64"),
        ("tokens", {"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}, "no data URL in base64"),
        ("tokens", {"type": "image_url", "image_url": {"url": url(b"nothing")}}, "no picture that is read"),
        ("tokens", {"type": "image_url", "image_url": {"url": url(bomb(60_000, 60_000))}}, "is the most"),
        ("tokens", {"type": "image_url", "image_url": {"detail": "low"}}, "is sent as a data URL"),
        ("tokens", {"type": "image_url", "image_url": {"url": 5}}, "is sent as a data URL"),
    ],
)
def test_parts_of_messages_name_their_place(http, model, part, words):
    body = {"model": model, "messages": parts({"type": "text", "text": "What?"}, part), "max_tokens": 1}
    error = refused(http.post(CHAT, json=body))
    assert error["param"] == "messages[0].content[1].image_url"
    assert words in error["message"]


def test_other_parts_and_too_many_pictures(http):
    sound = parts({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}})
    assert refused(http.post(CHAT, json={"model": "tokens", "messages": sound}))["param"] == "messages[0].content[0]"
    part = {"type": "image_url", "image_url": {"url": url(picture())}}
    many = refused(http.post(CHAT, json={"model": "tokens", "messages": parts(*[part] * 9)}))
    assert many["code"] == "context_length_exceeded"
    said = [{"role": "system", "content": [part]}, *parts({"type": "text", "text": "a"})]
    assert "users send" in refused(http.post(CHAT, json={"model": "tokens", "messages": said}))["message"]


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/embeddings"])
def test_a_model_that_draws_writes_nothing(http, path):
    body = {"model": "diffusion", "messages": parts(), "prompt": "a", "input": "a"}
    own = {CHAT: ("model", "messages"), "/v1/completions": ("model", "prompt")}.get(path, ("model", "input"))
    error = refused(http.post(path, json={name: body[name] for name in own}))
    assert (error["code"], error["param"]) == ("unsupported_model", "model")


@pytest.mark.parametrize(
    ("name", "body", "param"),
    [
        ("caption", {"model": "texts", "example": {"image": url(picture())}}, "model"),
        ("caption", {"example": {"image": "http://example.org/a.png"}}, "example.image"),
        ("caption", {"example": {"image": "/etc/passwd"}}, "example.image"),
        ("caption", {"example": {"image": ["a"]}}, "example.image"),
        ("caption", {"example": {"image": url(b"x")}}, "example.image"),
        ("caption", {"example": {"image": url(picture())}, "shots": [{"image": url(b"x"), "caption": "a"}]},
         "shots[0].image"),
        ("drawing", {"model": "tokens", "example": {"caption": "a"}, "steps": 3}, "steps"),
        ("drawing", {"model": "diffusion", "example": {"caption": "a"}, "max_tokens": 3}, "max_tokens"),
        ("drawing", {"model": "diffusion", "example": {"caption": "a"}, "n": 11}, "n"),
        ("drawing", {"model": "diffusion", "example": {"capton": "a"}}, "example"),
        ("editing", {"model": "diffusion", "example": {"image": url(picture((3, 3))), "instruction": "a"}},
         "example.image"),
    ],
)  # fmt: skip
def test_tasks_name_the_field(http, name, body, param):
    assert refused(http.post(f"/v1/tasks/{name}", json=body))["param"] == param
