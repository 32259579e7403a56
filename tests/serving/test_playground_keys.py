"""Keys, the mouse and the clipboard in the playground: where the focus goes, what closes, stops and is copied."""

import pytest

from tests.serving.browsing import browser, opened, serving
from tests.serving.conftest import tiny

__all__ = ["browser", "opened"]


@pytest.fixture(scope="module")
def server():
    with serving({"tiny": tiny(512)}) as address:
        yield address


def test_the_link_to_the_task_leaves_it_as_it_is(opened):
    page = opened("#text")
    page.locator("nav a").first.wait_for()
    page.locator(".skip").press("Enter")
    assert page.evaluate("[document.activeElement.id, location.hash]") == ["main", "#text"]
    assert page.locator(".panel h2").text_content() == "Text"


def test_a_dialog_closes_by_a_click_that_begins_and_ends_beside_it(opened):
    page = opened("#text")
    page.get_by_role("button", name="Copy as code").click()
    box = page.locator("#code-dialog").bounding_box()
    beside, padding = (5, 5), (box["x"] + 5, box["y"] + 5)
    text = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    for press, release in ((padding, padding), (text, padding), (text, beside), (padding, beside), (beside, text)):
        pressed(page, press, release)
        assert page.locator("#code-dialog").is_visible(), (press, release)
    pressed(page, beside, beside)
    assert page.locator("#code-dialog").is_hidden()


def pressed(page, press, release):
    page.mouse.move(*press)
    page.mouse.down()
    page.mouse.move(*release)
    page.mouse.up()
