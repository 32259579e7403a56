"""How clients say what diffusion is to do: dials, the best of many, variations of all kinds; bounds on each."""

import json

import httpx
import pytest

from polytask.models.prior import SCHEDULE
from polytask.tasks.picture import decode
from tests.serving.artists import by_tokens, cascade, diffusion, picture, pixels, shown, unclip, url
from tests.serving.conftest import running
from tests.serving.test_mistakes import refused

DRAW, EDIT, VARY = (f"/v1/images/{name}" for name in ("generations", "edits", "variations"))
FEW = {"steps": 3, "seed": 7}


@pytest.fixture(scope="module")
def models():
    made = {"diffusion": diffusion(), "unclip": unclip(), "cascade": cascade(), "tokens": by_tokens()}
    made["own"] = diffusion()
    made["own"].painter.folder.about["drawing"] = {"guidance": 1.5, "sampler": "dpm_solver", "steps": 3}
    return made


@pytest.fixture(scope="module")
def served(models):
    with running(models) as (address, app), httpx.Client(base_url=address, timeout=60) as client:
        yield client, app


@pytest.fixture(scope="module")
def http(served):
    return served[0]


def drawn(answer):
    assert answer.status_code == 200, answer.text
    return [shown(one["b64_json"]).tobytes() for one in answer.json()["data"]]


def of(pictures):
    return [pixels(one) for one in pictures]


def form(words):
    return {name: json.dumps(value).strip('"') for name, value in words.items()}


@pytest.mark.parametrize("dials", [
    {"sampler": "euler", "spacing": "karras"}, {"sampler": "ddpm", "gamma": 0.8}, {"eta": 0.7},
    {"threshold": "dynamic", "percentile": 0.5, "guidance": 9.0},
])  # fmt: skip
def test_dials_are_those_of_python(http, models, dials):
    body = {"model": "diffusion", "prompt": "a red", **FEW, **dials}
    assert drawn(http.post(DRAW, json=body)) == of(models["diffusion"].draw("a red", **FEW, **dials))


def test_a_prior_is_told_how(http, models):
    dials = {"prior_steps": 3, "prior_guidance": 4.0, "prior_candidates": 3}
    body = {"model": "unclip", "prompt": "a red", **FEW, **dials}
    assert drawn(http.post(DRAW, json=body)) == of(models["unclip"].draw("a red", **FEW, **dials))


def test_what_is_not_said_is_as_the_models_folder_says(http, models):
    wanted = models["diffusion"].draw("a red", seed=7, guidance=1.5, sampler="dpm_solver", steps=3)
    assert drawn(http.post(DRAW, json={"model": "own", "prompt": "a red", "seed": 7})) == of(wanted)


def test_the_best_of_many_by_the_models_own_clip(http, models):
    words = {**FEW, "prior_steps": 2, "candidates": 5, "n": 2}
    found = drawn(http.post(DRAW, json={"model": "unclip", "prompt": "a red", **words}))
    assert found == of(models["unclip"].draw("a red", **words))
    assert found != of(models["unclip"].draw("a red", **{**words, "candidates": None}))


def test_candidates_take_their_place_in_the_queue(models):
    with running({"unclip": models["unclip"]}, queue=2) as (address, app):
        worker = app.state.shelf.get("unclip").worker
        worker.taken = worker.limit - 20
        body = {"prompt": "a", "candidates": 30, **FEW}
        assert refused(httpx.post(address + DRAW, json=body), 429)["code"] == "queue_full"
        worker.taken, worker.limit = 0, 29
        error = refused(httpx.post(address + DRAW, json=body))
        assert (error["param"], "29 is the most" in error["message"]) == ("candidates", True)


@pytest.mark.parametrize("words", [
    {"n": 2}, {"details": True, "eta": 0.4}, {"from": "a red", "to": "a blue", "theta": 0.3, "n": 2}, {"towards": 1},
])  # fmt: skip
def test_variations_of_all_kinds(http, models, words):
    model, image, other = models["unclip"], picture(seed=1), picture(seed=2)
    dials = {name: value for name, value in words.items() if name not in ("from", "to", "towards")} | FEW
    ask = model.variations
    if "from" in words:
        wanted = model.difference(image, "a red", "a blue", **dials)
    elif "towards" in words:
        wanted = model.interpolate(image, other, **dials)
    else:
        wanted = ask(image, **dials)
    files = {"image": image} | ({"towards": other} if "towards" in words else {})
    said = {name: value for name, value in words.items() if name != "towards"} | FEW
    assert drawn(http.post(VARY, data=form(said), files=files)) == of(wanted)
    example = {name: url(file) for name, file in files.items()}
    example |= {name: words[name] for name in ("from", "to") if name in words}
    answers = http.post("/v1/tasks/variations", json={"model": "unclip", "example": example, **dials}).json()["answers"]
    assert [shown(one["answer"]["b64_json"]).tobytes() for one in answers] == of(wanted)
    assert len(answers) == (7 if "towards" in words else words.get("n", 1))


@pytest.mark.parametrize(("body", "param", "words"), [
    ({"spacing": "karas"}, "spacing", "did you mean 'karras'"), ({"eta": 2}, "eta", "less"),
    ({"eta": 0.5, "sampler": "heun"}, "eta", "adds no noise"), ({"gamma": 0.5}, "gamma", "of ddpm"),
    ({"percentile": 0}, "percentile", "greater"), ({"percentile": 0.9}, "percentile", "dynamic"),
    ({"prior_steps": 5, "model": "diffusion"}, "prior_steps", "with a prior"),
    ({"prior_steps": SCHEDULE.steps}, "prior_steps", "less"), ({"prior_candidates": 64}, "prior_candidates", "less"),
    ({"candidates": 65}, "candidates", "less"), ({"candidates": 2, "n": 3}, "candidates", "n=3"),
    ({"candidates": 4, "model": "diffusion"}, "candidates", "holds no CLIP"),
    ({"candidates": 4, "model": "tokens"}, "candidates", "token by token"),
    ({"augmentation": 0.2}, "augmentation", "that enlarges"), ({"details": True}, "details", "of variations"),
    ({"theta": 0.3}, "theta", "of variations"), ({"clip": "/models/clip"}, "clip", "Unrecognized"),
    ({"prompt": " "}, "prompt", "is empty"), ({"prompt": " ", "model": "tokens"}, "prompt", "is empty"),
])  # fmt: skip
def test_generations_name_the_field(http, body, param, words):
    error = refused(http.post(DRAW, json={"model": "unclip", "prompt": "a", **body}))
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize(("words", "files", "param", "said"), [
    ({"from": "a"}, {}, "to", "say both"), ({"to": "a"}, {}, "from", "say both"),
    ({"theta": 0.5}, {}, "theta", "say both"), ({"candidates": 3}, {}, "candidates", "leave it out"),
    ({"from": "a", "to": "b"}, {"towards": picture()}, "towards", "exclude each other"),
    ({"n": 1}, {"towards": picture()}, "n", "at least both ends"),
    ({}, {"towards": b"x"}, "towards", "no picture"), ({"from": "a", "to": "a"}, {}, "to", "the same to CLIP"),
    ({"towards": "/etc/hosts"}, {}, "towards", "no picture"),
    ({"details": True, "sampler": "heun"}, {}, "sampler", "eta"),
])  # fmt: skip
def test_variations_name_the_field(http, words, files, param, said):
    error = refused(http.post(VARY, data=form({**FEW, **words}), files={"image": picture(), **files}))
    assert error["param"] == param
    assert said in error["message"]


def test_a_mask_in_black_and_white_is_told_what_it_lacks(http):
    data = {"model": "diffusion", "prompt": "a"}
    error = refused(http.post(EDIT, data=data, files={"image": picture(), "mask": picture()}))
    assert (error["param"], "made transparent where it is white" in error["message"]) == ("mask", True)


def test_models_that_draw_by_tokens_fit_pictures_where_that_is_said(http, models):
    image, data = picture((16, 12)), {"model": "tokens", "prompt": "bluer", "seed": "3"}
    error = refused(http.post(EDIT, data=data, files={"image": image}))
    assert (error["param"], "16 x 12 pixels" in error["message"]) == ("image", True)
    answer = http.post(EDIT, data={**data, "resize": "true"}, files={"image": image})
    assert drawn(answer) == of(models["tokens"].edit(image, "bluer", seed=3, resize=True))


@pytest.mark.parametrize("model", ["diffusion", "unclip", "tokens"])
def test_texts_of_clients_open_no_files(http, tmp_path, model):
    """A path that Python takes as a picture is no picture when a client writes it."""
    (tmp_path / "own.png").write_bytes(picture())
    path = str(tmp_path / "own.png")
    assert decode(picture()).size == (8, 8)
    for name in ("editing", "variations", "captioning"):
        for said in (path, f"file://{path}", {"bytes": path}):
            example = {"image": said, "mask": said, "instruction": "a"} if name == "editing" else {"image": said}
            answer = http.post(f"/v1/tasks/{name}", json={"model": model, "example": example})
            assert 400 <= answer.status_code < 502, answer.text
            assert "b64_json" not in answer.text
    for where in (EDIT, VARY):
        for field in ("image", "mask", "towards"):
            answer = http.post(where, data={"model": model, "prompt": "a", field: path}, files={})
            assert answer.status_code in (400, 415, 501), answer.text


def test_tasks_fit_pictures_where_that_is_said(http):
    body = {"model": "tokens", "example": {"image": url(picture((16, 12))), "instruction": "bluer"}}
    error = refused(http.post("/v1/tasks/editing", json={**body, "resize": False}))
    assert (error["param"], "16 x 12 pixels" in error["message"]) == ("example.image", True)
    assert http.post("/v1/tasks/editing", json={**body, "resize": True}).status_code == 200
