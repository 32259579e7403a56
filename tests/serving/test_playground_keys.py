"""Keys, the mouse and the clipboard in the playground: where the focus goes, what closes, stops and is copied."""

import json
import re

import pytest

from tests.serving.browsing import answered, browser, dial, opened, say, serving, settled, slowed, written
from tests.serving.conftest import tiny

__all__ = ["browser", "opened"]

REPLY = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}]}


@pytest.fixture(scope="module")
def server():
    with serving({"tiny": tiny(512)}) as address:
        yield address


def hanging(page, address):
    """What is asked there is never answered."""
    page.route(address, lambda route: None)


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


def test_escape_stops_though_what_had_the_focus_is_gone(opened):
    page = opened("#chat")
    answered(page, "**/chat/completions", json=REPLY)
    say(page, "Hello!")
    settled(page)
    hanging(page, "**/chat/completions")
    page.get_by_role("button", name="Regenerate").click()
    stopped(page, ".turn.assistant .foot .note")
    page.locator(".turn.user").hover()
    page.locator(".turn.user").get_by_role("button", name="Edit").click()
    page.press(".turn.user textarea", "Control+Enter")
    page.click("#open-key")
    page.keyboard.press("Escape")
    assert page.locator("#key-dialog").is_hidden()
    assert page.locator(".turn[aria-busy]").count() == 1  # the key was for the dialog
    stopped(page, ".turn.assistant .foot .note")

    page.click("nav a[href='#text']")
    page.fill("#field-text-text", "Once")
    answered(page, "**/v1/tasks/text", status=502)
    page.click("form button[type=submit]")
    page.locator(".error").wait_for()
    hanging(page, "**/v1/tasks/text")
    page.get_by_role("button", name="Try again").click()
    stopped(page, ".result .note")


def stopped(page, note):
    page.locator("main [aria-busy]").wait_for()
    page.keyboard.press("Escape")
    settled(page)
    assert page.locator(note).text_content() == "stopped"


def test_the_keys_that_ask_do_not_stop(opened):
    page = opened("#text")
    held = []
    page.route("**/v1/tasks/text", lambda route: held.append(route))
    page.fill("#field-text-text", "Once")
    page.locator("#field-text-text").focus()
    page.keyboard.down("Control")
    for _ in range(2):  # what comes without an up between is of a key that is held
        page.keyboard.down("Enter")
    page.keyboard.up("Enter")
    page.keyboard.up("Control")
    for place in ("#field-text-text", "form .strong"):
        page.press(place, "Control+Enter")
        page.wait_for_timeout(100)
        assert page.locator(".result[aria-busy]").count() == 1
    page.get_by_role("button", name="Stop").click()
    settled(page)
    assert page.locator(".result .note").text_content() == "stopped"
    assert len(held) == 1
    page.press("form .strong", "Control+Enter")
    stopped(page, ".result .note")
    assert len(held) == 2


def test_an_edit_that_is_sent_ends_the_answer_that_is_written(opened):
    page = opened("#chat")
    answered(page, "**/chat/completions", json=REPLY)
    say(page, "Hello!")
    settled(page)
    page.locator(".turn.user").hover()
    page.locator(".turn.user").get_by_role("button", name="Edit").click()
    hanging(page, "**/chat/completions")
    say(page, "And now?")
    with page.expect_event("requestfailed"):
        page.press(".turn.user textarea", "Control+Enter")
    assert page.locator(".turn").count() == 2
    stopped(page, ".turn.assistant .foot .note")


def test_code_is_what_stands_between_fences(opened):
    page = opened("#chat")
    line = "```print(1)```"
    for text, blocks, shown in (
        (f"Run\n{line}\nor\n````py\nprint(2)\n````\nthen\n```\nprint(3)\n```\nand\n{line}", ["print(2)", "print(3)"],
         f"Run\n{line}\norprint(2)Copythenprint(3)Copyand\n{line}"),
        ("So:\n```py\nprint(", ["print("], "So:print(Copy"),
    ):  # fmt: skip
        events = [{"choices": [{"index": 0, "delta": {"content": letter}}]} for letter in text]
        stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        answered(page, "**/chat/completions", content_type="text/event-stream", body=stream)
        say(page, "How?")
        settled(page)
        assert page.locator(".turn.assistant").last.locator(".code pre").all_text_contents() == blocks
        assert written(page, ".turn.assistant .text") == shown


def test_what_is_copied_is_what_was_written_until_the_stop(opened, monkeypatch):
    slowed(monkeypatch)
    page = opened("#text", permissions=["clipboard-read", "clipboard-write"])
    dial(page, "max_tokens", 400)
    dial(page, "temperature", 0)
    page.fill("#field-text-text", "Who?")
    page.click("form button[type=submit]")
    page.locator(".result .text", has_text=re.compile("[^ ].{5}", re.DOTALL)).wait_for()
    page.get_by_role("button", name="Stop").click()
    settled(page)
    assert page.locator(".result .note").text_content() == "stopped"
    page.get_by_role("button", name="Copy", exact=True).click()
    page.get_by_text("Copied").first.wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == written(page, ".result .text")


def test_a_text_that_is_copied_with_a_picture_of_it_is_pasted_as_text(opened):
    """Office programs put both on the clipboard."""
    page = opened("#text", permissions=["clipboard-read", "clipboard-write"])
    page.locator("#field-text-text").focus()
    page.evaluate(
        "async () => { const canvas = new OffscreenCanvas(4, 4); canvas.getContext('2d');"
        "const image = await canvas.convertToBlob();"
        "await navigator.clipboard.write([new ClipboardItem({'image/png': image,"
        "'text/plain': new Blob(['one\\ttwo'], {type: 'text/plain'}),"
        "'text/html': new Blob(['<b>one</b>\\ttwo'], {type: 'text/html'})})]) }"
    )
    page.keyboard.press("Control+v")
    assert page.locator("#field-text-text").input_value() == "one\ttwo"


def test_what_is_copied_without_a_clipboard_leaves_the_focus(opened):
    """Browsers have none for pages of plain http."""
    page = opened("#chat")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    answered(page, "**/chat/completions", json=REPLY)
    say(page, "Hello!")
    settled(page)
    page.locator(".turn.assistant").get_by_role("button", name="Copy").press("Enter")
    page.get_by_text("Copied").first.wait_for()
    assert page.evaluate("document.activeElement.textContent") == "Copied"
    page.locator("#draft").press("Control+v")
    assert page.locator("#draft").input_value() == "Hello."


def test_the_alternatives_of_a_token_go_with_it(opened):
    page = opened("#text")
    page.get_by_role("switch", name="Token probabilities").check()
    dial(page, "max_tokens", 12)
    dial(page, "seed", 5)  # others may begin with a mark that has no width to point at
    page.fill("#field-text-text", "Once")
    page.press("#field-text-text", "Control+Enter")
    page.locator(".result .foot .acts").wait_for()
    page.locator(".token").nth(1).hover()
    assert page.locator(".alternatives").is_visible()
    hanging(page, "**/v1/tasks/text")
    page.press("#field-text-text", "Control+Enter")
    page.locator(".token").first.wait_for(state="detached")
    page.locator(".alternatives").wait_for(state="hidden")
