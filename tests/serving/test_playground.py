"""The playground in a real browser over a real server: what is asked, streamed, stopped, shown and copied."""

import json
import re
import subprocess

import httpx
import pytest

from polytask.model import Model
from polytask.serving.page import STATIC
from polytask.tasks.yaml import read_task
from tests.inference.networks import TOKENIZER, network
from tests.serving.browsing import (
    NAMELESS,
    PHONE,
    SMALL,
    answered,
    browser,
    dial,
    opened,
    say,
    serving,
    settled,
    slowed,
    written,
)

__all__ = ["browser", "opened"]

MOOD = "name: mood-of-a-text\nprompt: 'The mood of {line}?'\ntarget: '{mood}'\nchoices: [glad, sad]\n"
FILLED = {
    "text": {"text": "Once"},
    "translation": {"source": "A dog.", "target_lang": "German"},
    "answering": {"question": "Who?", "context": "I did."},
    "summarization": {"document": "A long text."},
    "code": {"prompt": "Add two numbers."},
    "classification": {"text": "Good.", "labels": "yes\nno"},
    "infilling": {"masked": "A [1] runs up the [2]."},
    "mood-of-a-text": {"line": "Hurray!"},
}
HOSTILE = "<img src=x onerror=\"document.title='caught'\"><script>document.title='caught'</script>\n```\n<b>x</b>\n```"


@pytest.fixture(scope="module")
def model():
    return Model(network(context=4096), TOKENIZER, tasks={"mood-of-a-text": read_task(MOOD)})


@pytest.fixture(scope="module")
def server(model):
    with serving({"tiny": model, "other": Model(network(seed=1), TOKENIZER)}) as address:
        yield address


def ask(page, task):
    page.click(f"nav a[href='#{task}']")
    for name, value in FILLED[task].items():
        page.fill(f"#field-{task}-{name}", value)
    page.click("form button[type=submit]")
    page.locator(".result .foot .acts").wait_for()


def test_every_task_has_a_panel_that_answers_as_the_model_does(opened, model):
    page = opened()
    page.locator("nav a").first.wait_for()
    assert {link.get_attribute("href")[1:] for link in page.locator("nav a").all()} == {"chat", *FILLED}
    dial(page, "max_tokens", 12)
    dial(page, "temperature", 0)
    for name, fields in FILLED.items():
        ask(page, name)
        example = {key: value.split("\n") if key == "labels" else value for key, value in fields.items()}
        answer = model.ask(name, example, details=True, max_tokens=12, temperature=0)
        if answer.probabilities:
            rows = {row.locator("span").first.text_content().split(" (")[0]: row.locator(".number").text_content()
                    for row in page.locator(".choices li").all()}  # fmt: skip
            assert {choice: float(share.strip("<%")) for choice, share in rows.items()} == {
                choice: pytest.approx(100 * share, abs=0.11) for choice, share in answer.probabilities.items()
            }
            assert page.locator(".choices .chosen").text_content().startswith(answer.value)
        elif isinstance(answer.value, str) and answer.value.strip():
            shown = page.locator(".result > .text, .result > pre").text_content()
            assert shown.strip() == answer.value.strip()


def test_answers_of_a_known_shape_are_shown_in_it(opened):
    """Marks are filled in where they stand, a program is monospaced, and what is required is asked for."""
    page = opened("#infilling")
    answer = {"index": 0, "answer": {"[1]": "dog", "[2]": "<i>hill</i>"}, "finish_reason": "stop"}
    answered(page, "**/v1/tasks/infilling", json={"answers": [answer]})
    ask(page, "infilling")
    assert page.locator(".result .text").text_content() == "A dog runs up the <i>hill</i>."
    assert page.locator(".result mark").all_text_contents() == ["dog", "<i>hill</i>"]
    page.click("nav a[href='#code']")
    page.click("form button[type=submit]")
    assert page.locator(".complaint").first.text_content() == "Prompt is needed."
    assert page.evaluate("document.activeElement.name") == "prompt"
    answered(page, "**/v1/tasks/code", json={"answers": [{**answer, "answer": "a = 1"}]})
    ask(page, "code")
    assert "mono" in page.locator(".result pre").evaluate("element => getComputedStyle(element).fontFamily")


def test_a_conversation_streams_stops_and_is_changed(opened, model, monkeypatch):
    slowed(monkeypatch)
    page = opened("#chat")
    dial(page, "temperature", 0)
    page.click("summary >> text=System prompt")
    page.fill("#system", "Be brief.")
    say(page, "Hello!")
    begun = re.compile("[^ ].{20}", re.DOTALL)
    page.locator(".turn.assistant[aria-busy] .text", has_text=begun).wait_for()  # there while more is written
    page.press("#draft", "Escape")
    settled(page)
    assert "stopped" in page.locator(".turn.assistant .note").text_content()
    short = written(page, ".turn.assistant .text")
    turns = [{"role": "user", "content": "Hello!"}]
    assert model.chat(turns, system="Be brief.", temperature=0, max_tokens=2000).startswith(short)

    dial(page, "max_tokens", 9)
    page.get_by_role("button", name="Regenerate").click()
    settled(page)
    assert "9 tokens" in page.locator(".turn.assistant .note").text_content()
    assert written(page, ".turn.assistant .text") == model.chat(turns, system="Be brief.", temperature=0, max_tokens=9)

    page.locator(".turn.user").hover()
    page.locator(".turn.user").get_by_role("button", name="Edit").click()
    page.fill(".turn.user textarea", "Good evening!")
    page.press(".turn.user textarea", "Control+Enter")
    settled(page)
    assert page.locator(".turn").count() == 2
    turns[0]["content"] = "Good evening!"
    reply = model.chat(turns, system="Be brief.", temperature=0, max_tokens=9)
    assert written(page, ".turn.assistant .text") == reply

    say(page, "And now?")
    settled(page)
    turns += [{"role": "assistant", "content": reply}, {"role": "user", "content": "And now?"}]
    expected = model.chat(turns, system="Be brief.", temperature=0, max_tokens=9)
    assert written(page, ".turn.assistant .text") == expected
    page.get_by_role("button", name="New").click()
    assert page.locator(".turn").count() == 0


def test_an_answer_without_text_is_not_sent_with_the_next_turn(opened):
    page = opened("#chat")
    page.locator("nav a").first.wait_for()
    reply = {"choices": [{"message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}]}
    for words in ({"status": 502}, {"json": reply}):
        answered(page, "**/chat/completions", **words)
        say(page, "Hello!")
        settled(page)
    page.get_by_role("button", name="Copy as code").click()
    assert "assistant" not in page.locator("#code-dialog pre").text_content()
    page.keyboard.press("Escape")
    for act in (lambda: say(page, "And now?"), page.get_by_role("button", name="Regenerate").last.click):
        with page.expect_request("**/chat/completions") as asked:
            act()
        settled(page)
        turns = [(turn["role"], turn["content"]) for turn in asked.value.post_data_json["messages"]]
        assert turns == [("user", "And now?")]
    assert page.locator(".turn").count() == 6


@pytest.mark.parametrize("task", ["chat", "summarization"])
def test_tokens_show_what_else_they_might_have_been(opened, task):
    page = opened(f"#{task}")
    page.get_by_role("switch", name="Token probabilities").check()
    dial(page, "max_tokens", 12)
    dial(page, "seed", 5)  # others may begin with a mark that has no width to point at
    if task == "chat":
        say(page, "Hello!")
        settled(page)
    else:
        ask(page, task)
    tokens = page.locator(".token")
    tokens.first.wait_for()
    assert "".join(tokens.all_text_contents()) == written(page, ".tokens")
    tokens.nth(1).hover()
    shares = [float(text.strip("<%")) for text in page.locator(".alternatives .number").all_text_contents()]
    assert len(shares) >= 5
    assert sum(shares) <= 100.5
    assert page.locator(".alternatives .chosen").count() == 1
    tokens.first.press("ArrowRight")
    assert page.evaluate("document.activeElement.previousElementSibling.matches('.token')")
    assert page.locator(".alternatives").is_visible()


def test_given_answers_need_no_token_probabilities(opened):
    page = opened("#classification")
    page.get_by_role("switch", name="Token probabilities").check()
    ask(page, "classification")
    assert page.locator(".result .choices").count() == 1


def test_errors_are_shown_and_a_key_opens_the_door(opened):
    from polytask.serving.settings import Keys

    page = opened("#text")
    page.fill("#field-text-text", "long " * 2000)
    page.click("form button[type=submit]")
    assert "4096" in page.locator(".error").text_content()
    assert "400" in page.locator(".error .kind").text_content()
    page.fill("#field-text-text", "short")
    dial(page, "max_tokens", 3)
    page.get_by_role("button", name="Try again").click()
    page.locator(".result .text").wait_for()

    with serving({"tiny": Model(network(context=256), TOKENIZER)}, keys=Keys(["open-sesame"])) as address:
        page = opened(address=address)
        assert "key" in page.locator(".error").text_content()
        page.get_by_role("button", name="Enter an API key").click()
        page.fill("#key", "open-sesame")
        page.press("#key", "Enter")
        page.locator("nav a").first.wait_for()
        kept = page.evaluate("[{...localStorage}, document.cookie, {...sessionStorage}].map(s => JSON.stringify(s))")
        assert ["open-sesame" in store for store in kept] == [False, False, True]
        page.get_by_role("button", name="Copy as code").click()
        assert "Bearer $POLYTASK_API_KEY" in page.locator("#code-dialog pre").text_content()
        page.context.close()


def test_a_server_that_is_gone_and_a_stream_that_breaks_are_said(opened):
    page = opened("#chat")
    page.locator("nav a").first.wait_for()
    half = 'data: {"choices":[{"delta":{"content":"Half"}}]}\r\n\r\n'
    broken = half + 'data: {"error":{"message":"The server failed.","type":"server_error"}}\n\n'
    for body, told in ((half, "ended before the answer did"), (broken, "The server failed.")):
        answered(page, "**/chat/completions", content_type="text/event-stream", body=body)
        say(page, "Hello!")
        page.locator(".error").last.wait_for()
        assert told in page.locator(".error").last.text_content()
        assert written(page, ".turn.assistant .text") == "Half"
        page.get_by_role("button", name="New").click()
    answered(page, "**/chat/completions", status=502, body="<h1>Bad gateway</h1>")
    say(page, "Hello!")
    assert "status 502" in page.locator(".error").text_content()
    page.route("**/chat/completions", lambda route: route.abort())
    page.get_by_role("button", name="Try again").click()
    page.locator(".error", has_text="cannot be reached").wait_for()


def test_what_a_model_writes_stays_text(opened):
    page = opened("#chat")
    page.locator("nav a").first.wait_for()
    chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": HOSTILE}, "finish_reason": "stop"}]})
    stream = f"data: {chunk}\n\ndata: [DONE]\n\n"
    answered(page, "**/chat/completions", content_type="text/event-stream", body=stream)
    say(page, HOSTILE)
    settled(page)
    answer = {"index": 0, "answer": HOSTILE, "finish_reason": "stop", "probabilities": {HOSTILE: 1.0}}
    answered(page, "**/v1/tasks/text", json={"answers": [answer]})
    assert HOSTILE.split("\n")[0] in written(page, ".turn.assistant .text")
    assert page.locator("main :is(img, script, b)").count() == 0
    ask(page, "text")
    assert page.locator("main :is(img, script, b)").count() == 0
    assert HOSTILE in page.locator(".choices").text_content()
    assert page.title() == "Text · polytask"


@pytest.mark.parametrize("task", ["chat", "answering"])
def test_what_is_copied_as_code_works(opened, model, capsys, task):
    page = opened(f"#{task}")
    dial(page, "max_tokens", 8)
    dial(page, "temperature", 0)
    page.locator("details >> text=More").click()
    dial(page, "repetition_penalty", 1.1)
    text = 'It\'s "quoted"\nand $HOME'
    page.fill("#draft" if task == "chat" else "#field-answering-question", text)
    example = {"messages": [{"role": "user", "content": text}]} if task == "chat" else {"question": text}
    page.get_by_role("button", name="Copy as code").click()
    expected = model.ask(task, example, max_tokens=8, temperature=0, repetition_penalty=1.1)
    ways = page.locator("#code-dialog button[aria-pressed]")
    ways.nth(0).click()
    done = subprocess.run(
        ["bash", "-c", page.locator("#code-dialog pre").text_content()], capture_output=True, text=True
    )
    reply = json.loads(done.stdout)
    found = reply["choices"][0]["message"]["content"] if task == "chat" else reply["answers"][0]["answer"]
    assert found == expected
    ways.nth(1).click()
    exec(compile(page.locator("#code-dialog pre").text_content(), "copied", "exec"), {})
    assert capsys.readouterr().out.removesuffix("\n") == expected


def test_a_phone_shows_everything_in_its_width(opened):
    page = opened("", PHONE, has_touch=True, is_mobile=True, color_scheme="dark", reduced_motion="reduce")
    page.locator("nav a").first.wait_for()
    for link in page.locator("nav a").all():
        link.tap()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(SMALL) == []
    page.tap("#open-settings")
    assert page.locator("#settings").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("Escape")
    assert not page.locator("#settings").is_visible()


def test_the_last_model_chosen_is_shown_whoever_answers_first(opened):
    page = opened()
    page.locator("nav a").first.wait_for()
    page.select_option("#model", "other")
    page.locator("nav a[href='#mood-of-a-text']").wait_for(state="detached")
    held = []
    page.route("**/tasks?model=tiny", lambda route: held.append(route))
    page.select_option("#model", "tiny")
    page.select_option("#model", "other")
    settled(page)
    with page.expect_response("**/tasks?model=tiny"):
        held[0].continue_()
    page.wait_for_timeout(100)
    assert page.locator("nav a[href='#mood-of-a-text']").count() == 0


def test_tasks_that_do_not_come_are_an_error_with_a_second_try(opened):
    page = opened()
    page.locator("nav a").first.wait_for()
    page.route("**/tasks?model=other", lambda route: route.abort())
    page.select_option("#model", "other")
    page.locator(".panel .error").wait_for()
    settled(page)
    assert page.locator("nav a").count() == 0  # they were of the model before
    page.evaluate("location.hash = 'text'")
    page.wait_for_timeout(100)
    assert page.locator(".panel .error").count() == 1
    page.unroute("**/tasks?model=other")
    page.locator(".panel .error").get_by_role("button").first.click()
    page.locator("nav a[href='#mood-of-a-text']").wait_for(state="detached")


def test_models_are_chosen_and_colours_are_kept(opened):
    page = opened("", color_scheme="light")
    page.locator("nav a").first.wait_for()
    assert page.locator("#model option").all_text_contents() == ["tiny", "other"]
    assert page.locator("nav a[href='#mood-of-a-text']").count() == 1
    page.select_option("#model", "other")
    page.locator("nav a[href='#mood-of-a-text']").wait_for(state="detached")
    assert "reads 96 tokens" in page.locator("#facts").text_content()
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.click("#theme")
    assert page.evaluate(ground) != light
    page.reload()
    assert page.evaluate(ground) != light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_named_and_readable(opened, scheme):
    """Every control has a name, and texts stand out from their ground by WCAG's ratio of 4.5."""
    page = opened("#translation", color_scheme=scheme)
    page.locator("nav a").first.wait_for()
    assert page.evaluate(NAMELESS) == []
    assert page.locator(":is(h1, main, nav, header)").count() == 4
    colours = page.evaluate(
        "() => { const probe = document.body.appendChild(document.createElement('p')); const of = name => {"
        "probe.style.color = `var(--${name})`; return getComputedStyle(probe).color.match(/\\d+/g).map(n => n / 255) };"
        "return Object.fromEntries(['page','sheet','tint','ink','soft','accent','on-accent','bad','bad-tint']"
        ".map(name => [name, of(name)])) }"
    )
    for ground in ("page", "sheet", "tint"):
        for ink in ("ink", "soft", "accent", "bad"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    assert contrast(colours["on-accent"], colours["accent"]) >= 4.5
    assert contrast(colours["bad"], colours["bad-tint"]) >= 4.5


def contrast(*colours):
    """WCAG 2.2, contrast ratio."""
    linear = [[c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour] for colour in colours]
    low, high = sorted(0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in linear)
    return (high + 0.05) / (low + 0.05)


def test_files_are_sent_with_a_policy_and_hold_no_markup(server):
    for path in ("", "static/main.js", "static/style.css"):
        answer = httpx.get(server + path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "javascript" in httpx.get(server + "static/main.js").headers["content-type"]
    for file in STATIC.iterdir():
        text = file.read_text()
        assert text.count("\n") < 400
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), file.name
        assert re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", text) == [], file.name
