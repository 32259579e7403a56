"""The playground in a real browser over a real server: what its tests share."""

import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from polytask.inference.runner import Runner

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'polytask[serve]'")

DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
# Every control that has no name.
NAMELESS = (
    "[...document.querySelectorAll('input, textarea, select, button, canvas')].filter(e => !(e.labels?.length || "
    "e.getAttribute('aria-label') || e.textContent.trim())).map(e => e.outerHTML)"
)
# What a finger cannot hit, or stands out to the right.
SMALL = (
    "[...document.querySelectorAll('main :is(button, textarea, canvas), header button')].filter(e => e.offsetParent)"
    ".map(e => [e.outerHTML, e.getBoundingClientRect()])"
    ".filter(([_, box]) => box.height < 39 || box.right > innerWidth)"
)


@pytest.fixture(scope="module")
def browser():
    """The system's Chromium, or the one that playwright has downloaded."""
    with playwright.sync_playwright() as started:
        system = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
        path = next(system, started.chromium.executable_path)
        if not Path(path).exists():
            pytest.skip("there is no Chromium: apt-get install chromium, or python -m playwright install chromium")
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def serving(models, **limits):
    from polytask.serving.app import create_app
    from polytask.serving.settings import Settings

    server = uvicorn.Server(uvicorn.Config(create_app(models, Settings(**limits)), port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join(30)


@pytest.fixture
def opened(browser, server):
    """Opens the page; in the end nothing was asked of anybody else, and the browser complained of nothing."""
    contexts, asked, said = [], [], []

    def open_page(fragment="", viewport=DESK, address=server, **words):
        context = browser.new_context(viewport=viewport, **words)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append((request.url, address)))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(address + fragment)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert all(url.startswith(address) for url, address in asked)
    # What a test wants to fail is said by the browser too.
    assert [text for text in said if not text.startswith("Failed to load resource")] == []


def dial(page, name, value):
    page.fill(f"#dial-{name}", str(value))


def settled(page):
    page.wait_for_function("() => !document.querySelector('[aria-busy]')")  # tasks may be on their way, too


def say(page, text):
    page.fill("#draft", text)
    page.press("#draft", "Enter")


def slowed(monkeypatch):
    """Models write slowly; else all is written before anybody can stop it."""
    run = Runner.run

    def slowly(self, plan):
        time.sleep(0.02)
        return run(self, plan)

    monkeypatch.setattr(Runner, "run", slowly)


def written(page, place):
    return page.locator(place).last.evaluate("element => element.textContent")


def answered(page, address, **words):
    """What is asked there gets this answer and never reaches the server."""
    page.route(address, lambda route: route.fulfill(**words))
