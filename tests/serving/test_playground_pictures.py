"""Pictures in the playground: drawn, stopped, painted over, varied, described, shown to a model, copied as code."""

import base64
import io
import json
import subprocess

import numpy as np
import pytest
from PIL import Image

from polytask.model import Model
from polytask.pictures import PictureModel
from polytask.pictures.matching import PictureMatcher
from polytask.tasks.picture import png
from tests.inference.networks import TOKENIZER, network
from tests.painters import write_clip
from tests.serving import artists, picturing
from tests.serving.browsing import NAMELESS, PHONE, SMALL, browser, dial, opened, serving, settled
from tests.serving.conftest import until
from tests.serving.picturing import SIDE

__all__ = ["browser", "opened"]

BOARD = ".board canvas"
PAINTED = (  # of a copy, since the browser complains of a canvas that is read again and again
    "canvas => { const {width, height} = canvas; const copy = new OffscreenCanvas(width, height).getContext('2d');"
    "copy.drawImage(canvas, 0, 0); const {data} = copy.getImageData(0, 0, width, height);"
    "return Array.from({length: width * height}, (_, i) => data[4 * i + 3] > 0) }"
)


@pytest.fixture(scope="module")
def unclip():
    return picturing.unclip()


@pytest.fixture(scope="module")
def multimodal():
    return artists.by_tokens(1024)


@pytest.fixture(scope="module")
def server(unclip, multimodal):
    models = {"unclip": unclip, "many": multimodal, "digits": artists.by_label(("0", "1", "2"))}
    with serving({**models, "mute": Model(network(), TOKENIZER)}) as address:
        yield address


def photo(size=SIDE, seed=0):
    """A PNG of colours by chance."""
    return png(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)))


def file(data, name="my cat.png"):
    return {"name": name, "mimeType": "image/png", "buffer": data}


def shown(page, place=".gallery img"):
    """The pixels of the pictures in a place."""
    page.locator(place).first.wait_for()
    urls = [image.get_attribute("src") for image in page.locator(place).all()]
    return [pixels(base64.b64decode(url.partition(",")[2])) for url in urls]


def pixels(picture):
    opened = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
    return np.asarray(opened.convert("RGB")).tolist()


def start(page, model, task, **fields):
    page.select_option("#model", model)
    settled(page)
    page.click(f"nav a[href='#{task}']")
    for name, value in fields.items():
        page.fill(f"#field-{task}-{name}", value)


def submit(page):
    page.click("main form button[type=submit]")


def quick(page, count=2):
    """Few steps, a seed and so many pictures."""
    dial(page, "steps", 4)
    dial(page, "seed", 7)
    page.fill(".count input", str(count))


def painted(page):
    return np.array(page.locator(BOARD).evaluate(PAINTED)).reshape(SIDE, SIDE)


def stroke(page, *places):
    """Draws with the mouse through places, in pixels of the picture."""
    board = page.locator(BOARD)
    board.scroll_into_view_if_needed()
    box = board.bounding_box()
    points = [(box["x"] + x * box["width"] / SIDE, box["y"] + y * box["height"] / SIDE) for x, y in places]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=3)
    page.mouse.up()


def covered(size, *places):
    """The pixels whose middle is within half a brush of a way along one axis, and those of its ends."""
    (x0, y0), (x1, y1) = places[0], places[-1]
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    found = np.hypot(columns - columns.clip(x0, x1), rows - rows.clip(y0, y1)) <= size / 2
    for x, y in (places[0], places[-1]):
        found[int(y), int(x)] = True
    return found


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
    page.get_by_role("button", name="Stop").click() if way == "button" else page.keyboard.press("Escape")
    settled(page)
    assert page.locator(".result .note").text_content() == "stopped"
    assert page.locator(".gallery").count() == 0
    until(lambda: not unclip.engines[0].busy)
    quick(page, 1)
    submit(page)
    assert len(shown(page)) == 1


def test_an_edit_sends_the_mask_that_was_painted(opened, unclip, monkeypatch):
    sent = {}
    editing = PictureModel.edit

    def spy(self, picture, prompt, mask, **dials):
        sent.update(picture=picture, prompt=prompt, mask=np.asarray(mask.convert("L")) > 0)
        return editing(self, picture, prompt, mask, **dials)

    monkeypatch.setattr(PictureModel, "edit", spy)
    page = opened("#drawing")
    start(page, "unclip", "drawing", caption="a red circle")
    quick(page)
    submit(page)
    drawn = shown(page)
    page.get_by_role("button", name="Edit this").nth(1).click()
    assert shown(page, ".chosen-picture img") == drawn[1:]
    page.fill("#field-editing-instruction", "a blue square")
    submit(page)
    page.locator(".error", has_text="Nothing is transparent").wait_for()

    size = int(page.locator(".brush input").input_value()) / 100 * SIDE
    first, second = [(3.3, 4.2), (9.3, 4.2)], [(12.3, 6.4), (12.3, 12.4)]
    stroke(page, *first)
    assert painted(page).tolist() == covered(size, *first).tolist()
    stroke(page, *second)
    both = covered(size, *first) | covered(size, *second)
    assert painted(page).tolist() == both.tolist()
    assert f"{round(100 * both.mean())}%" in page.locator(".mask output").text_content()
    page.fill(".count input", "2")
    submit(page)
    edited = shown(page)
    assert sent["mask"].tolist() == both.tolist()
    assert (pixels(sent["picture"]), sent["prompt"]) == (drawn[1], "a blue square")
    kept = ~both
    assert all(np.array(one)[kept].tolist() == np.array(drawn[1])[kept].tolist() for one in edited)
    assert edited != [drawn[1]] * 2
    monkeypatch.undo()
    whole = Image.fromarray(np.uint8(drawn[1]))
    expected = unclip.edit(whole, "a blue square", Image.fromarray(np.uint8(both * 255)), n=2, seed=7, steps=4)
    assert edited == [pixels(one) for one in expected]


def test_a_mask_is_painted_by_keys_taken_back_and_erased(opened):
    page = opened("#editing")
    start(page, "unclip", "editing")
    assert page.locator(BOARD).is_hidden()
    page.set_input_files("#field-editing-image", file(photo()))
    page.locator(BOARD).focus()
    page.locator(".brush input").fill("12")
    page.locator(BOARD).press("Space")
    middle = covered(0.12 * SIDE, (SIDE / 2, SIDE / 2))
    assert painted(page).tolist() == middle.tolist()
    for _ in range(3):
        page.locator(BOARD).press("Shift+ArrowRight")
    assert painted(page).tolist() == covered(0.12 * SIDE, (SIDE / 2, SIDE / 2), (SIDE / 2 + 3, SIDE / 2)).tolist()
    page.get_by_role("button", name="Undo").click()
    page.locator(BOARD).press("Control+z")
    assert painted(page).tolist() == covered(0.12 * SIDE, (SIDE / 2, SIDE / 2), (SIDE / 2 + 1, SIDE / 2)).tolist()
    whole = painted(page)
    page.get_by_role("button", name="Erase").click()
    stroke(page, (7.5, 8), (7.6, 8))
    assert painted(page).sum() < whole.sum()
    page.get_by_role("button", name="Clear").click()
    assert painted(page).sum() == 0
    assert page.locator(".mask output").text_content() == "Nothing is painted yet."
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Undo").click()
    assert painted(page).tolist() == whole.tolist()


def test_a_finger_paints_and_does_not_scroll(opened):
    page = opened("#editing", PHONE, has_touch=True, is_mobile=True, color_scheme="dark")
    start(page, "unclip", "editing")
    page.set_input_files("#field-editing-image", file(photo()))
    board = page.locator(BOARD)
    board.scroll_into_view_if_needed()
    box, scrolled = board.bounding_box(), page.locator("main").evaluate("main => main.scrollTop")
    session = page.context.new_cdp_session(page)

    def touch(kind, *places):
        scale = box["width"] / SIDE
        points = [{"x": box["x"] + x * scale, "y": box["y"] + y * scale} for x, y in places]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    ways = [(8.2, 3.2), (8.2, 7.2), (8.2, 11.2)]
    touch("touchStart", ways[0])
    for place in ways[1:]:
        touch("touchMove", place)
    touch("touchEnd")
    until(lambda: painted(page).tolist() == covered(0.2 * SIDE, *ways).tolist())
    assert page.locator("main").evaluate("main => main.scrollTop") == scrolled


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
