"""Pictures by the official client: what the server draws is what the model draws, for one client and for several."""

import asyncio
import base64
import gc
import json

import httpx
import openai
import pytest

from tests.serving.artists import (
    by_label,
    by_tokens,
    cascade,
    diffusion,
    hole,
    instructed,
    looking,
    picture,
    pixels,
    shown,
    unclip,
    url,
)  # fmt: skip
from tests.serving.conftest import running, tiny, until

FEW = {"steps": 4, "seed": 7}


@pytest.fixture(scope="module")
def models():
    return {
        "texts": tiny(), "diffusion": diffusion(), "cascade": cascade(), "labels": by_label(), "unclip": unclip(),
        "tokens": by_tokens(), "looking": looking(), "instructed": instructed(),
    }  # fmt: skip


@pytest.fixture(scope="module")
def server(models):
    with running(models) as (address, app):
        yield address, app


def same(answer, expected) -> bool:
    return [pixels(one) for one in answer.data] == [pixels(one) for one in expected]


@pytest.mark.parametrize("name", ["diffusion", "cascade", "labels", "unclip"])
def test_diffusion_draws_as_the_model_does(client, models, name):
    words = "square" if name == "labels" else "a red"
    answer = client.images.generate(model=name, prompt=words, n=2, response_format="b64_json", extra_body=FEW)
    assert same(answer, models[name].draw(words, n=2, **FEW))
    assert answer.size == f"{models[name].side}x{models[name].side}"
    assert pixels(answer.data[0]) != pixels(answer.data[1])


def test_dials_of_diffusion(client, models):
    dials = {"sampler": "euler", "guidance": 5.0, "threshold": "dynamic", **FEW}
    answer = client.images.generate(model="diffusion", prompt="a red", size="8x8", user="me", extra_body=dials)
    assert same(answer, models["diffusion"].draw("a red", **dials))
    bare = client.images.generate(model="diffusion", prompt="a red", extra_body={"threshold": "none", **FEW})
    assert same(bare, models["diffusion"].draw("a red", threshold="none", **FEW))


def test_without_a_seed_one_is_drawn_and_told(client):
    one, other = (client.images.generate(prompt="a red", extra_body={"steps": 2}) for _ in range(2))
    assert (one.model, one.seed != other.seed) == ("diffusion", True)
    again = client.images.generate(prompt="a red", extra_body={"steps": 2, "seed": one.seed})
    assert same(again, [shown(entry.b64_json) for entry in one.data])


def test_tokens_draw_and_edit_as_the_model_does(client, models):
    model, image = models["tokens"], picture()
    drawn = client.images.generate(model="tokens", prompt="a red", n=2, extra_body={"seed": 3})
    assert same(drawn, model.draw("a red", n=2, seed=3))
    assert drawn.usage.output_tokens == 2 * model.tokenizer.pictures.vocabulary.tokens
    dials = {"temperature": 0.5, "top_k": 3, "seed": 1}
    assert same(
        client.images.generate(model="tokens", prompt="a", extra_body=dials), model.draw("a", **dials)
    )  # fmt: skip
    edited = client.images.edit(model="tokens", image=image, prompt="bluer", extra_body={"seed": 3})
    assert same(edited, model.edit(image, "bluer", seed=3))
    assert edited.usage.input_tokens_details.image_tokens == model.tokenizer.pictures.vocabulary.tokens


def test_what_is_transparent_is_drawn_anew(client):
    image = picture(seed=1)
    answer = client.images.edit(model="diffusion", image=[image], mask=hole(), prompt="a red", extra_body=FEW)
    new, old = shown(answer.data[0].b64_json), shown(base64.b64encode(image).decode())
    assert new.crop((0, 0, 4, 8)).tobytes() == old.crop((0, 0, 4, 8)).tobytes()
    assert new.crop((4, 0, 8, 8)).tobytes() != old.crop((4, 0, 8, 8)).tobytes()
    own = client.images.edit(model="diffusion", image=hole(), prompt="a red", extra_body=FEW)
    assert set(shown(own.data[0].b64_json).crop((0, 0, 4, 8)).tobytes()) == {0}
    large = {"image": picture((16, 16)), "mask": hole((4, 4)), "prompt": "a red"}
    assert client.images.edit(model="diffusion", **large, extra_body={**FEW, "resize": True}).size == "8x8"


def test_an_instruction_changes_a_picture(client, http, models):
    image, model = picture(seed=1), models["instructed"]
    dials = {"picture_guidance": 2.0, **FEW}
    answer = client.images.edit(model="instructed", image=image, prompt="a red", n=2, extra_body=dials)
    assert same(answer, model.edit(image, "a red", n=2, **dials))
    within = client.images.edit(model="instructed", image=image, mask=hole(), prompt="a red", extra_body=FEW)
    new, old = shown(within.data[0].b64_json), shown(base64.b64encode(image).decode())
    assert new.crop((0, 0, 4, 8)).tobytes() == old.crop((0, 0, 4, 8)).tobytes()
    (task,) = http.get("/v1/tasks?model=instructed").json()["data"]
    assert (task["name"], task["fields"]["instruction"]["help"]) == ("editing", "what is to be changed")
    body = {"model": "instructed", "example": {"image": url(image), "instruction": "a red"}, **dials}
    told = http.post("/v1/tasks/edit", json=body).json()["answers"][0]
    assert shown(told["answer"]["b64_json"]).tobytes() == pixels(answer.data[0])
    other = http.post("/v1/images/edits", data={"model": "diffusion", "prompt": "a", "picture_guidance": "2"},
                      files={"image": image, "mask": hole()})  # fmt: skip
    assert (other.status_code, other.json()["error"]["param"]) == (400, "picture_guidance")


def test_variations(client, models):
    image = picture((9, 20))
    answer = client.images.create_variation(model="unclip", image=image, n=2, extra_body=FEW)
    assert same(answer, models["unclip"].variations(image, n=2, **FEW))


def test_many_clients_share_passes_and_get_their_own(server, models):
    """What each would have alone, but for the rounding of sums in larger batches."""
    passes, model = [], models["diffusion"]
    hook = model.painter.network.unet.register_forward_hook(lambda module, given, output: passes.append(len(output)))

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{server[0]}/v1", api_key="none", timeout=60) as client:
            return await asyncio.gather(
                *(
                    client.images.generate(
                        model="diffusion", prompt=f"number {i}", n=2, extra_body={"steps": 20, "seed": i}
                    )
                    for i in range(5)
                )
            )

    answers = asyncio.run(ask())
    hook.remove()
    assert max(passes) >= 4
    for i, answer in enumerate(answers):
        for entry, one in zip(answer.data, model.draw(f"number {i}", n=2, steps=20, seed=i), strict=True):
            assert max(abs(a - b) for a, b in zip(pixels(entry), pixels(one))) <= 1


def test_a_client_that_hangs_up_ends_its_pictures(server, models, caplog):
    address, app = server
    worker, passes = app.state.shelf.get("diffusion").worker, []
    hook = models["diffusion"].painter.network.unet.register_forward_hook(lambda *_: passes.append(1))
    asked = {"model": "diffusion", "prompt": "a", "n": 10, "steps": 100, "sampler": "heun"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{address}/v1/images/generations", json=asked, timeout=0.15)
    until(lambda: worker.taken == 0 and worker.stats() == {"running": 0, "waiting": 0})
    hook.remove()
    assert len(passes) < 199
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_queue_and_time_are_bounded():
    model = diffusion()
    model.engines[0].max_requests = 1
    with running({"a": model}, queue=1, seconds=0.2) as (address, app):
        asked = {"prompt": "a", "steps": 100, "sampler": "heun", "n": 3}
        full = httpx.post(f"{address}/v1/images/generations", json=asked, timeout=60)
        assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
        late = httpx.post(f"{address}/v1/images/generations", json={**asked, "n": 2}, timeout=60)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        assert app.state.shelf.get("a").worker.taken == 0
        assert httpx.get(f"{address}/health").status_code == 200


def test_nan_names_its_step_and_the_server_stays_up(client, server, models):
    network = models["diffusion"].painter.network
    hook = network.unet.register_forward_hook(lambda module, given, output: output * float("nan"))
    with pytest.raises(openai.InternalServerError, match="step 1 of 4") as found:
        client.images.generate(model="diffusion", prompt="a", extra_body=FEW)
    hook.remove()
    assert found.value.code == "sampling_failed"
    assert client.images.generate(model="diffusion", prompt="a", extra_body=FEW).data


def test_models_say_what_they_can(client, http):
    known = {model.id: model for model in client.models.list()}
    assert known["diffusion"].tasks == ["drawing", "editing"]
    assert known["unclip"].tasks == ["drawing", "editing", "variations"]
    assert {"drawing", "editing", "captioning", "chat"} <= set(known["tokens"].tasks)
    assert not {"drawing"} & {*known["texts"].tasks, *known["looking"].tasks}
    assert [known[name].pixels for name in ("texts", "cascade", "tokens", "looking")] == [None, 16, 8, 8]
    assert known["labels"].labels == ["circle", "square"]
    assert (known["diffusion"].steps, known["tokens"].steps) == (100, None)
    metrics = http.get("/metrics").text
    assert 'polytask_running{model="diffusion"} 0.0' in metrics
    assert 'polytask_pictures_total{model="tokens"}' in metrics


def test_the_log_counts_pictures_and_holds_none(http, caplog):
    with caplog.at_level("INFO", logger="polytask.serving"):
        http.post("/v1/images/generations", json={"model": "diffusion", "prompt": "secret", "n": 2, **FEW})
        until(lambda: caplog.messages)  # the line is written once the answer has left
    line = json.loads(caplog.messages[-1])
    assert (line["model"], line["pictures"], line["status"]) == ("diffusion", 2, 200)
    assert "secret" not in caplog.text


# Pictures in conversations and tasks

TALK = [
    {"role": "user", "content": [{"type": "text", "text": "Look: "}, picture(), picture(seed=1),
                                 {"type": "text", "text": "?"}]},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "And?"},
]  # fmt: skip


def talk(form) -> list[dict]:
    """The conversation with pictures as `form` has them."""
    return [
        {**turn, "content": [form(part) if isinstance(part, bytes) else part for part in turn["content"]]}
        if isinstance(turn["content"], list)
        else turn
        for turn in TALK
    ]


@pytest.mark.parametrize("name", ["tokens", "looking"])
def test_conversations_with_pictures(client, models, name):
    expected = models[name].chat(talk(lambda data: {"type": "image", "image": data}), max_tokens=8, temperature=0)
    sent = talk(lambda data: {"type": "image_url", "image_url": {"url": url(data), "detail": "low"}})
    answer = client.chat.completions.create(model=name, messages=sent, max_tokens=8, temperature=0)
    assert answer.choices[0].message.content == expected
    assert answer.usage.prompt_tokens > 2 * models[name].tokenizer.pictures.vocabulary.tokens
    stream = client.chat.completions.create(model=name, messages=sent, max_tokens=8, temperature=0, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == expected
    items = talk(lambda data: {"type": "input_image", "image_url": url(data), "detail": "auto"})
    response = client.responses.create(model=name, input=items, max_output_tokens=8, temperature=0)
    assert response.output_text == expected


def test_a_picture_belongs_to_the_turn_around_it(models):
    from polytask.tasks import get_task, prompt
    from polytask.tokenizers.encode import prompt_ids

    tokenizer = models["tokens"].tokenizer
    messages = talk(lambda data: {"type": "image", "image": data})
    text = tokenizer.decode(prompt_ids(prompt(get_task("chat"), {"messages": messages}), tokenizer), special=True)
    assert (text.count("<|user|>"), text.count("<|image|>"), text.count("<|assistant|>")) == (2, 2, 2)
    assert text.startswith("<|user|>Look: <|image|>")
    assert "<|end of image|>?<|assistant|>Yes." in text


@pytest.mark.parametrize("name", ["tokens", "looking"])
def test_tasks_read_pictures(http, models, name):
    model, image = models[name], picture()
    for sent in (url(image), base64.b64encode(image).decode()):
        body = {"model": name, "example": {"image": sent}, "max_tokens": 6}
        answer = http.post("/v1/tasks/caption", json=body).json()
        assert answer["model"] == name
        assert answer["answers"][0]["answer"] == model.caption(image, max_tokens=6)
    chosen = {"example": {"question": "what?", "image": url(image), "choices": ["a", "b"]}, "model": name}
    assert http.post("/v1/tasks/answer", json=chosen).json()["answers"][0]["answer"] == model.answer(
        "what?", choices=["a", "b"], image=image
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["tokens", "unclip"])
def test_tasks_draw(http, models, name, stream):
    dials = {"seed": 3, "n": 2} if name == "tokens" else {**FEW, "n": 2}
    body = {"model": name, "example": {"caption": "a red"}, "stream": stream, **dials}
    text = http.post("/v1/tasks/drawing", json=body).text
    answer = json.loads(text.split("\n\n")[-3].removeprefix("data: ")) if stream else json.loads(text)
    drawn = [shown(one["answer"]["b64_json"]) for one in answer["answers"]]
    assert [pixels(one) for one in drawn] == [pixels(one) for one in models[name].draw("a red", **dials)]


def test_tasks_of_diffusion_are_described_and_answered(http, models):
    told = {one["name"]: one for one in http.get("/v1/tasks?model=unclip").json()["data"]}
    assert {name: field["type"] for name, field in told["editing"]["fields"].items()} == {
        "image": "picture", "mask": "picture", "instruction": "str",
    }  # fmt: skip
    example = {"image": url(picture()), "mask": url(hole()), "instruction": "a red"}
    body = {"model": "unclip", "example": example, **FEW}
    edited = shown(http.post(told["editing"]["path"], json=body).json()["answers"][0]["answer"]["b64_json"])
    assert edited.crop((0, 0, 4, 8)).tobytes() == shown(example["image"].partition(",")[2]).crop((0, 0, 4, 8)).tobytes()
    varied = http.post(told["variations"]["path"], json={"example": {"image": url(picture())}, **FEW}).json()
    expected = models["unclip"].variations(picture(), **FEW)
    assert pixels(shown(varied["answers"][0]["answer"]["b64_json"])) == pixels(expected[0])


def test_folders_of_both_kinds_are_served(models, tmp_path):
    """As `polytask serve` loads them, with what it says of language models beside."""
    from polytask.interop import networks
    from polytask.serving.server import load

    kept = models["diffusion"]
    networks.save(tmp_path / "pictures", kept.painter.network, kept.folder.about, tokenizer=kept.folder.tokenizer)
    models["texts"].save(tmp_path / "texts")
    paths = {"pictures": str(tmp_path / "pictures"), "texts": str(tmp_path / "texts")}
    loading = {"dtype": "auto", "int8": True, "int4": False, "draft": None, "truncate": None}
    with running(load(paths, loading)) as (address, _):
        drawn = httpx.post(f"{address}/v1/images/generations", json={"prompt": "a red", **FEW}, timeout=60).json()
        assert pixels(shown(drawn["data"][0]["b64_json"])) == pixels(kept.draw("a red", **FEW)[0])
        written = httpx.post(f"{address}/v1/completions", json={"prompt": "a", "max_tokens": 2}, timeout=60).json()
        assert (drawn["model"], written["model"]) == ("pictures", "texts")
