"""What no model of a server can do, as the official client hears it: 501, whatever is sent."""

import httpx
import openai
import pytest

from tests.serving.artists import diffusion, picture
from tests.serving.conftest import running, tiny

WAVE = ("speech.wav", b"RIFF" + b"\0" * 6_000_000, "audio/wav")  # larger than any other body may be


def heard(ask, status: int = 501, code: str = "not_implemented") -> str:
    with pytest.raises(openai.APIStatusError) as error:
        ask()
    assert (error.value.status_code, error.value.code) == (status, code)
    return error.value.body["message"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.audio.transcriptions.create(model="whisper-1", file=WAVE),
        lambda client: client.audio.translations.create(model="whisper-1", file=WAVE),
        lambda client: client.audio.speech.create(model="tts-1", voice="alloy", input="Hello!"),
    ],
    ids=["transcriptions", "translations", "speech"],
)
def test_sounds(client, ask):
    assert "sounds" in heard(lambda: ask(client))


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "application/json"])
def test_sounds_of_any_kind_of_content(http, method, kind):
    answer = http.request(method, "/v1/audio/anything", content=b"{", headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "not_implemented")


@pytest.mark.parametrize("name", ["tiny", "gpt-image-1"])
def test_pictures_where_no_model_draws(client, name):
    files = {"image": ("a.png", picture()), "model": name}
    assert "draws pictures" in heard(lambda: client.images.generate(model=name, prompt="a circle"))
    assert "edits pictures" in heard(lambda: client.images.edit(prompt="a circle", **files))
    assert "variations" in heard(lambda: client.images.create_variation(**files))


def test_where_another_model_draws_it_is_named():
    with running({"tiny": tiny(), "painter": diffusion()}) as (address, _):
        with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            said = heard(lambda: client.images.generate(model="tiny", prompt="a"), 400, "unsupported_model")
            assert "ask 'painter'" in said
            heard(lambda: client.images.create_variation(model="painter", image=("a.png", picture())))
        assert httpx.get(address + "/health").status_code == 200
