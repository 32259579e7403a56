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
