"""Pictures in the playground: drawn, stopped, varied, brought, refused, copied as code."""

import base64
import json
import subprocess

import pytest

from polytask.model import Model
from polytask.pictures.matching import PictureMatcher
from polytask.tasks.yaml import read_task
from tests.inference.networks import TOKENIZER, network
from tests.painters import write_clip
from tests.serving import artists, picturing
from tests.serving.browsing import NAMELESS, PHONE, SMALL, browser, dial, opened, serving, settled
from tests.serving.conftest import until
from tests.serving.galleries import BOARD, file, photo, pixels, quick, shown, start, stroke, submit

__all__ = ["browser", "opened"]


@pytest.fixture(scope="module")
def unclip():
    return picturing.unclip()


@pytest.fixture(scope="module")
def multimodal():
    model = artists.by_tokens(1024)
    model.tasks["poster"] = read_task("name: poster\nbase: drawing\nprompt: 'A poster: {caption}'\n")
    return model


@pytest.fixture(scope="module")
def server(unclip, multimodal):
    models = {"unclip": unclip, "many": multimodal, "digits": artists.by_label(("0", "1", "2"))}
    with serving({**models, "mute": Model(network(), TOKENIZER)}) as address:
        yield address


def panels(page):
    """The tasks that the page offers, all at one moment."""
    return set(page.eval_on_selector_all("nav a", "links => links.map(a => a.getAttribute('href').slice(1))"))


def test_every_task_for_pictures_has_its_panel(opened):
    page = opened()
    for model, tasks in (
        ("unclip", {"drawing", "editing", "variations"}),
        ("digits", {"drawing", "editing"}),
        ("many", {"chat", "drawing", "editing", "captioning", "answering"}),
    ):
        page.select_option("#model", model)
        others = {"variations", "captioning"} - tasks
        until(lambda tasks=tasks, others=others: tasks <= panels(page) and not others & panels(page))
    page.click("nav a[href='#editing']")
    assert page.locator(".mask").count() == 0  # it edits by the instruction alone
    page.select_option("#model", "mute")
    page.locator("nav a[href='#drawing']").wait_for(state="detached")
    page.click("nav a[href='#answering']")
    assert page.locator(".chooser").count() == 0


def test_a_text_is_drawn_as_the_model_draws_it(opened, unclip, multimodal):
    page = opened("#drawing")
    start(page, "unclip", "drawing", caption="a red circle")
    quick(page, 3)
    page.select_option("#dial-sampler", "euler")
    submit(page)
    expected = unclip.draw("a red circle", n=3, seed=7, steps=4, sampler="euler")
    assert shown(page) == [pixels(one) for one in expected]
    alts = [image.get_attribute("alt") for image in page.locator(".gallery img").all()]
    assert alts == [f"a red circle ({i} of 3)" for i in (1, 2, 3)]
    assert "seed 7" in page.locator(".result .note").text_content()
    with page.expect_download() as started:
        page.get_by_role("link", name="Download a-red-circle-2.png").click()
    assert pixels(started.value.path().read_bytes()) == pixels(expected[1])

    start(page, "many", "drawing", caption="a red circle")
    assert page.locator("#dial-steps").count() == 0
    dial(page, "temperature", 0.5)
    page.fill(".count input", "2")
    submit(page)
    assert shown(page) == [pixels(one) for one in multimodal.draw("a red circle", n=2, seed=7, temperature=0.5)]


def test_a_task_of_ones_own_draws_whatever_is_asked_of_texts(opened):
    page = opened("#poster")
    start(page, "many", "poster", caption="a red circle")
    page.get_by_role("switch", name="Token probabilities").check()
    submit(page)
    assert len(shown(page, ".result img")) == 1


def test_a_model_of_labels_is_asked_for_one_of_them(opened):
    page = opened("#drawing")
    start(page, "digits", "drawing")
    choices = page.locator("#field-drawing-caption")
    assert choices.locator("option").all_text_contents() == ["0", "1", "2"]
    choices.select_option("2")
    quick(page)
    submit(page)
    assert len(shown(page)) == 2


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_drawing_is_shown_to_go_on_and_stops(opened, unclip, way):
    page = opened("#drawing")
    start(page, "unclip", "drawing", caption="a red circle")
    dial(page, "steps", 1000)
    page.fill(".count input", "10")
    submit(page)
    page.locator("progress").wait_for()
    assert page.locator(".result").get_attribute("aria-busy") == "true"
    until(lambda: unclip.engines[0].busy)
    page.press(".count input", "Enter")  # asks, and is asked already
    page.wait_for_timeout(100)
    assert page.locator(".result[aria-busy]").count() == 1
    page.get_by_role("button", name="Stop").click() if way == "button" else page.keyboard.press("Escape")
    settled(page)
    assert page.locator(".result .note").text_content() == "stopped"
    assert page.locator(".gallery").count() == 0
    until(lambda: not unclip.engines[0].busy)
    quick(page, 1)
    submit(page)
    assert len(shown(page)) == 1


def test_pictures_come_by_button_drop_and_paste(opened, unclip):
    page = opened("#variations")
    start(page, "unclip", "variations")
    quick(page)
    page.set_input_files("#field-variations-image", file(photo(24)))
    submit(page)
    expected = unclip.variations(photo(24), n=2, seed=7, steps=4)
    assert shown(page) == [pixels(one) for one in expected]
    assert page.locator(".gallery img").first.get_attribute("alt") == "A variation of my cat.png (1 of 2)"
    page.get_by_role("button", name="Use for variations").first.click()
    page.locator(".chosen-picture", has_text="my-cat-variation-1.png").wait_for()
    page.get_by_role("button", name="Remove").click()
    for kind, name in (("drop", "dropped.png"), ("paste", "pasted.png")):
        bring(page, kind, name, photo(seed=2))
        page.locator(".chosen-picture", has_text=name).wait_for()
        assert shown(page, ".chosen-picture img") == [pixels(photo(seed=2))]
    page.set_input_files("#field-variations-image", file(b"no picture", "notes.png"))
    page.locator(".complaint", has_text="notes.png is no picture").wait_for()
    page.set_input_files("#field-variations-image", file(photo(1500), "large.png"))
    page.locator(".chosen-picture", has_text="large.png · 1024 × 1024").wait_for()


def bring(page, kind, name, data):
    """A file that is dropped or pasted on the page."""
    page.evaluate(
        "([kind, name, bytes]) => { const carried = new DataTransfer();"
        "carried.items.add(new File([new Uint8Array(bytes)], name, {type: 'image/png'}));"
        "const words = {bubbles: true, cancelable: true, clipboardData: carried, dataTransfer: carried};"
        "const made = kind === 'paste' ? new ClipboardEvent(kind, words) : new DragEvent(kind, words);"
        "document.querySelector('main').dispatchEvent(made) }",
        [kind, name, list(data)],
    )


def test_what_the_server_refuses_is_shown_in_its_words(opened):
    page = opened("#drawing")
    start(page, "unclip", "drawing", caption="long " * 30)
    submit(page)
    assert "this model reads 47; shorten it" in page.locator(".error").text_content()
    assert "400" in page.locator(".error .kind").text_content()
    page.fill("#field-drawing-caption", "short")
    quick(page, 11)
    submit(page)
    page.locator(".error .kind", has_text="n").wait_for()
    page.fill(".count input", "1")
    page.get_by_role("button", name="Try again").click()
    assert len(shown(page)) == 1


@pytest.mark.parametrize("task", ["drawing", "editing", "variations"])
def test_what_is_copied_as_code_draws_the_same(opened, tmp_path, monkeypatch, task):
    page = opened(f"#{task}")
    text = 'It\'s "quoted"\nand $HOME'
    names = {"drawing": "caption", "editing": "instruction"}
    start(page, "unclip", task, **({names[task]: text} if task in names else {}))
    if task != "drawing":
        page.set_input_files(f"#field-{task}-image", file(photo(20)))
        page.locator(".chosen-picture img").wait_for()
    if task == "editing":
        stroke(page, (4, 4), (12, 12))
    quick(page)
    submit(page)
    expected = shown(page)
    page.get_by_role("button", name="Copy as code").click()
    for link in page.locator("#code-dialog a").all():
        with page.expect_download() as started:
            link.click()
        started.value.save_as(tmp_path / started.value.suggested_filename)
    curl, python = copied(page)
    done = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, cwd=tmp_path)
    found = [base64.b64decode(one["b64_json"]) for one in json.loads(done.stdout)["data"]]
    assert [pixels(one) for one in found] == expected
    monkeypatch.chdir(tmp_path)
    exec(compile(python, "copied", "exec"), {})
    assert [pixels((tmp_path / f"drawn-{i}.png").read_bytes()) for i in (1, 2)] == expected


def copied(page):
    """The request in both ways."""
    codes = []
    for way in page.locator("#code-dialog button[aria-pressed]").all():
        way.click()
        codes.append(page.locator("#code-dialog pre").text_content())
    return codes


def test_a_phone_shows_pictures_in_its_width(opened):
    page = opened("#drawing", PHONE, has_touch=True, is_mobile=True, reduced_motion="reduce")
    start(page, "unclip", "drawing", caption="a red circle")
    page.fill(".count input", "2")
    submit(page)
    page.locator(".gallery").wait_for()
    assert page.evaluate(SMALL) == []
    assert page.evaluate(NAMELESS) == []
    page.get_by_role("button", name="Edit this").first.tap()
    page.locator(BOARD).wait_for()
    assert page.evaluate(SMALL) == []
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.querySelectorAll('main img:not([alt])')].length") == 0


def test_a_clip_chooses_among_labels_and_has_nothing_to_set(browser, opened, tmp_path_factory):
    clip = PictureMatcher.load(write_clip(tmp_path_factory.mktemp("models") / "clip"))
    with serving({"clip": clip}) as address:
        page = opened("#classification", address=address)
        page.set_input_files("#field-classification-image", file(photo()))
        page.fill("#field-classification-labels", "a red\ngreen\na")
        submit(page)
        page.locator(".result .choices").wait_for()
        expected = clip.probabilities([photo()], ["a red", "green", "a"])[0]
        rows = page.locator(".choices li").all()
        assert {row.locator("span").first.text_content().split(" (")[0] for row in rows} == expected.keys()
        assert page.locator(".choices .chosen").text_content().startswith(max(expected, key=expected.get))
        assert "nothing to set" in page.locator("#dials").inner_text()
