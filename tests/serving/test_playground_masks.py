"""Masks in the playground: painted by mouse, keys and finger, and sent with an edit."""

import numpy as np
import pytest
from PIL import Image

from polytask.pictures import PictureModel
from tests.serving import picturing
from tests.serving.browsing import PHONE, browser, opened, serving
from tests.serving.conftest import until
from tests.serving.galleries import BOARD, file, painted, photo, pixels, quick, shown, start, stroke, submit
from tests.serving.picturing import SIDE

__all__ = ["browser", "opened"]


@pytest.fixture(scope="module")
def unclip():
    return picturing.unclip()


@pytest.fixture(scope="module")
def server(unclip):
    with serving({"unclip": unclip}) as address:
        yield address


def covered(size, *places):
    """The pixels whose middle is within half a brush of a way along one axis, and those of its ends."""
    (x0, y0), (x1, y1) = places[0], places[-1]
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    found = np.hypot(columns - columns.clip(x0, x1), rows - rows.clip(y0, y1)) <= size / 2
    for x, y in (places[0], places[-1]):
        found[int(y), int(x)] = True
    return found


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


def test_a_stroke_that_is_taken_back_while_it_is_drawn_is_over(opened):
    page = opened("#editing")
    start(page, "unclip", "editing")
    page.set_input_files("#field-editing-image", file(photo()))
    board = page.locator(BOARD)
    board.scroll_into_view_if_needed()
    box = board.bounding_box()

    def to(x, y):
        page.mouse.move(box["x"] + x / SIDE * box["width"], box["y"] + y / SIDE * box["height"])

    for before in ([], [(3.3, 4.2), (9.3, 4.2)]):
        if before:
            stroke(page, *before)
        to(3.3, 11.2)
        page.mouse.down()
        to(6.3, 11.2)
        page.keyboard.press("Control+z")
        to(9.3, 11.2)
        page.mouse.up()
        expected = covered(0.2 * SIDE, *before) if before else np.zeros((SIDE, SIDE), bool)
        assert painted(page).tolist() == expected.tolist()


def test_a_picture_that_is_called_as_the_mask_is_another_file_in_the_code(opened):
    page = opened("#editing")
    start(page, "unclip", "editing", instruction="a blue square")
    page.set_input_files("#field-editing-image", file(photo(), "mask.png"))
    page.locator(BOARD).press("Space")
    page.get_by_role("button", name="Copy as code").click()
    code = page.locator("#code-dialog pre").text_content()
    assert "-F image=@picture.png" in code
    assert "-F mask=@mask.png" in code


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
