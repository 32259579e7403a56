"""Pictures that a model is shown in the playground, captioned, asked about and talked about; answers held to JSON."""

import json

import pytest

from polytask.pictures import PictureModel
from tests.serving import artists, picturing
from tests.serving.browsing import NAMELESS, PHONE, SMALL, browser, dial, opened, say, serving, settled, written
from tests.serving.conftest import tiny, until
from tests.serving.galleries import BOARD, file, photo, shown, start, submit
from tests.serving.picturing import SIDE

__all__ = ["browser", "opened"]

FEW = {"max_tokens": 6, "temperature": 0}
SCHEMA = {
    "type": "object", "properties": {"red": {"type": "boolean"}, "many": {"enum": [1, 2]}},
    "required": ["red", "many"], "additionalProperties": False,
}  # fmt: skip
WIDE = "document.documentElement.scrollWidth <= innerWidth"


@pytest.fixture(scope="module")
def multimodal():
    return artists.by_tokens(1024)


@pytest.fixture(scope="module")
def server(multimodal):
    with serving({"many": multimodal, "unclip": picturing.unclip(), "texts": tiny(512)}) as address:
        yield address


def few(page):
    dial(page, "max_tokens", FEW["max_tokens"])
    dial(page, "temperature", FEW["temperature"])


def choose(page, task, data, name="my cat.png"):
    page.set_input_files(f"#field-{task}-image", file(data, name))
    page.locator(".chosen-picture", has_text=name).wait_for()


def result(page):
    page.locator(".result .foot .acts").wait_for()
    return page.locator(".result > .text, .result > .note").text_content().strip()


@pytest.mark.parametrize("task", ["captioning", "answering"])
def test_a_picture_is_chosen_and_the_answer_appears(opened, multimodal, task):
    page = opened(f"#{task}")
    start(page, "many", task, **({"question": "How many?"} if task == "answering" else {}))
    few(page)
    if task == "captioning":  # a question is asked without a picture too
        submit(page)
        page.locator(".complaint", has_text="Image is needed.").wait_for()
    for name, data in (("small.png", photo(8)), ("large.png", photo(40, seed=1))):
        choose(page, task, data, name)
        example = {"image": data} | ({"question": "How many?"} if task == "answering" else {})
        expected = multimodal.ask(task, example, **FEW).strip()
        submit(page)
        page.locator(".result[aria-busy]").wait_for(state="detached")
        assert result(page) == (expected or "The answer is empty.")


def test_a_broken_picture_is_said(opened):
    page = opened("#captioning")
    start(page, "many", "captioning")
    page.set_input_files("#field-captioning-image", file(b"no picture", "torn.png"))
    page.locator(".complaint", has_text="torn.png is no picture").wait_for()
    submit(page)
    page.locator(".complaint", has_text="Image is needed.").wait_for()
    page.click("nav a[href='#chat']")
    page.set_input_files("#attach", file(b"no picture", "torn.png"))
    page.locator(".chat .complaint", has_text="torn.png is no picture").wait_for()
    assert page.locator(".strip li").count() == 0


def test_what_the_server_finds_broken_is_said_in_its_words(opened):
    """Browsers show the part of a file that has come."""
    page = opened("#captioning")
    start(page, "many", "captioning")
    whole = photo(40)
    choose(page, "captioning", whole[: len(whole) // 2])
    submit(page)
    page.locator(".error", has_text="'example.image': The picture is broken").wait_for()
    page.set_input_files("#field-captioning-image", file(whole))
    page.locator(".chosen-picture", has_text="my cat.png").wait_for()
    page.get_by_role("button", name="Try again").click()
    page.locator(".result .foot .acts").wait_for()


def test_pictures_are_talked_about(opened, multimodal):
    page = opened("#chat")
    page.select_option("#model", "many")
    few(page)
    one, two = photo(8), photo(24, seed=1)
    page.set_input_files("#attach", [file(one, "one.png"), file(two, "two.png")])
    page.locator(".strip li").nth(1).wait_for()
    say(page, "Which is red?")
    settled(page)
    parts = [{"type": "image", "image": data} for data in (one, two)]
    turns = [{"role": "user", "content": [*parts, {"type": "text", "text": "Which is red?"}]}]
    expected = multimodal.chat(turns, **FEW)
    assert written(page, ".turn.assistant .text").strip() == (expected.strip() or "The answer is empty.")
    assert len(shown(page, ".turn.user img")) == 2
    say(page, "And now?")
    settled(page)
    turns += [{"role": "assistant", "content": expected}, {"role": "user", "content": "And now?"}]
    again = multimodal.chat(turns, **FEW)
    assert written(page, ".turn.assistant .text").strip() == (again.strip() or "The answer is empty.")
    page.select_option("#model", "texts")
    page.locator(".composer .attach").wait_for(state="detached")


def test_a_picture_that_is_read_while_a_turn_is_sent_is_of_the_next(opened):
    page = opened("#chat")
    page.select_option("#model", "many")
    few(page)
    page.evaluate(
        "() => { const image = HTMLImageElement.prototype, decode = image.decode; image.decode = async function () {"
        "await new Promise(done => (window.release = done)); return decode.call(this) } }"
    )
    page.set_input_files("#attach", file(photo()))
    until(lambda: page.evaluate("Boolean(window.release)"))
    say(page, "Which is red?")
    settled(page)
    page.evaluate("release()")
    page.locator(".strip li").wait_for()


def test_a_mask_over_a_picture_of_another_size_is_fitted(opened, monkeypatch):
    sent = {}
    editing = PictureModel.edit

    def spy(self, picture, prompt, mask, **dials):
        sent.update(sizes=(picture.size, mask.size), box=mask.convert("L").point(lambda x: 255 * (x > 127)).getbbox())
        return editing(self, picture, prompt, mask, **dials)

    monkeypatch.setattr(PictureModel, "edit", spy)
    page = opened("#editing")
    start(page, "unclip", "editing", instruction="a blue square")
    page.set_input_files("#field-editing-image", file(photo(3 * SIDE)))
    dial(page, "steps", 2)
    page.fill(".count input", "1")
    page.locator(BOARD).focus()
    page.locator(".brush input").fill("50")
    page.locator(BOARD).press("Space")
    submit(page)
    (picture,) = shown(page)
    assert len(picture) == SIDE
    assert sent["sizes"] == ((SIDE, SIDE), (SIDE, SIDE))
    left, top, right, bottom = sent["box"]
    assert max(abs(left - SIDE / 4), abs(top - SIDE / 4)) <= 1
    assert max(abs(right - 3 * SIDE / 4), abs(bottom - 3 * SIDE / 4)) <= 1
    page.route("**/v1/images/edits", lambda route: route.continue_(post_data=unfitted(route.request.post_data_buffer)))
    submit(page)
    page.locator(".error", has_text=f"the model draws {SIDE} x {SIDE}").wait_for()


def unfitted(body):
    """The form without the wish that sizes are fitted."""
    return body.replace(b'name="resize"\r\n\r\ntrue', b'name="resize"\r\n\r\nfalse')


@pytest.mark.parametrize("task", ["captioning", "answering", "chat"])
def test_a_phone_shows_what_it_was_asked_in_its_width(opened, task):
    page = opened(f"#{task}", PHONE, has_touch=True, is_mobile=True, reduced_motion="reduce")
    page.select_option("#model", "many")
    page.click(f"nav a[href='#{task}']")
    if task == "chat":
        page.select_option("#format", "json_schema")
        page.set_input_files("#attach", [file(photo(300, seed), f"{seed}-{'long' * 20}.png") for seed in range(6)])
        page.locator(".strip li").nth(5).wait_for()
        assert page.evaluate(WIDE)
        page.fill("#schema", "{}")
        page.fill("#draft", "What?")
        page.get_by_role("button", name="Send").tap()
        settled(page)
        page.locator(".turn.assistant .foot").wait_for()
    else:
        choose(page, task, photo(300), f"{'long' * 30}.png")
        if task == "answering":
            page.fill("#field-answering-question", "What?")
        submit(page)
        page.locator(".result .foot .acts").wait_for()
    assert page.evaluate(WIDE)
    assert page.evaluate(SMALL) == []
    assert page.evaluate(NAMELESS) == []


def test_an_answer_is_held_to_a_schema_and_shown_as_json(opened, multimodal):
    page = opened("#chat")
    page.select_option("#model", "many")
    dial(page, "temperature", 0)
    page.select_option("#format", "json_schema")
    say(page, "Which?")
    page.locator(".format .complaint", has_text="Paste a JSON schema here.").wait_for()
    page.fill("#schema", '{"type": ')
    page.press("#draft", "Enter")
    page.locator(".format .complaint", has_text="The schema is no JSON").wait_for()
    assert page.locator(".turn").count() == 0
    page.fill("#schema", json.dumps(SCHEMA))
    page.press("#draft", "Enter")
    settled(page)
    text = written(page, ".turn.assistant pre.json")
    answer = json.loads(text)
    assert set(answer) == {"red", "many"}
    assert type(answer["red"]) is bool
    assert answer["many"] in (1, 2)
    assert text == json.dumps(answer, indent=2)
    page.get_by_role("button", name="Copy as code").click()
    page.locator("#code-dialog button[aria-pressed]").nth(1).click()
    assert '"additionalProperties": False' in page.locator("#code-dialog pre").text_content()
    page.keyboard.press("Escape")

    dial(page, "max_tokens", 3)
    page.get_by_role("button", name="Regenerate").click()
    settled(page)
    page.locator(".turn.assistant .complaint", has_text="This is no whole JSON").wait_for()
    assert "cut at the limit" in page.locator(".turn.assistant .note").text_content()
    page.fill("#schema", '{"type": "colour"}')
    page.get_by_role("button", name="Regenerate").click()
    page.locator(".turn.assistant .error .kind", has_text="400").wait_for()
    page.select_option("#format", "text")
    page.get_by_role("button", name="Try again").click()
    settled(page)
    assert page.locator(".turn.assistant :is(pre.json, .complaint)").count() == 0
