"""The page: self-contained, and, where Chromium is installed, used in it."""

import re
import shutil

import httpx
import pytest

from t5x_like.serving.http import keys
from t5x_like.serving.http.page import PAGE, POLICY
from tests.serving import scripted
from tests.serving.http import servers

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_the_page_needs_nothing_from_elsewhere():
    text = PAGE.decode()
    assert not re.findall(r"(?:src|href|action)\s*=|@import|url\(|https?://", text)
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\son\w+=|style=", text)
    with servers.serve() as server:
        answer = httpx.get(f"http://127.0.0.1:{server.port}/")
    assert answer.headers["content-security-policy"] == POLICY and "default-src 'none'" in POLICY
    assert "unsafe" not in POLICY and answer.content == PAGE


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(browser, server):
    """The page and the list of its errors."""
    page, errors = browser.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.locator("#name", has_text="scripted").or_(page.locator("#key:visible")).wait_for()
    return page, errors


def test_a_chat_of_two_turns(browser):
    engine = scripted.ScriptedEngine(tick=0.001, max_length=512)
    with servers.serve(engine) as server:
        page, errors = open_page(browser, server)
        page.fill("#system", "be brief")
        for text in ("one <b>", "two"):
            page.fill("#message", text)
            page.press("#message", "Enter")
            page.locator("#send:not([disabled])").wait_for()
        assert [turn.text_content() for turn in page.locator("#turns .output").all()] == [
            "one <b>",
            engine.submitted[0].text,
            "two",
            engine.submitted[1].text,
        ]
        sent = engine.vocabulary.tokenizer.decode(engine.submitted[1].ids, skip_special_tokens=False)
        assert sent.startswith("<|im_start|>system\nbe brief<|im_end|><|im_start|>user\none <b><|im_end|>")
        assert engine.submitted[0].text in sent and not errors
        page.close()


def test_two_samplers_are_compared(browser):
    engine = scripted.ScriptedEngine(tick=0.001)
    with servers.serve(engine) as server:
        page, errors = open_page(browser, server)
        page.click("#tab-compare")
        page.fill("#prompt", "a prompt")
        page.select_option("#kind", "text")
        page.fill("#settings-b [name=seed]", "7")
        page.click("#go")
        page.locator("#go:not([disabled])").wait_for()
        by_temperature = {ticket.settings.temperature: ticket for ticket in engine.submitted}
        assert page.text_content("#output-a") == by_temperature[0.0].text
        assert page.text_content("#output-b") == by_temperature[0.8].text and by_temperature[0.8].settings.seed == 7
        assert "finish reason: " in page.text_content("#note-a") and not errors
        page.close()


def test_stop_ends_the_request(browser):
    engine = scripted.ScriptedEngine(tick=0.05)
    with servers.serve(engine) as server:
        page, errors = open_page(browser, server)
        page.fill("#message", "x")
        page.click("#send")
        page.locator("#turns .output >> nth=1").filter(has_text=re.compile(".")).wait_for()
        page.click("#chat-stop")
        page.locator("#turns .note", has_text="stopped").wait_for()
        engine.submitted[0].done.wait(5)
        assert engine.submitted[0].finish_reason == "cancelled" and not errors
        page.close()


def test_a_key_is_asked_for(browser, tmp_path):
    key = keys.create(tmp_path / "keys", "ann")
    with servers.serve(keys=keys.Keys.load(tmp_path / "keys")) as server:
        page, errors = open_page(browser, server)
        assert "API key" in page.text_content("#status")
        page.fill("#key", key)
        page.press("#key", "Tab")
        page.locator("#name", has_text="scripted").wait_for()
        page.fill("#message", "x")
        page.press("#message", "Enter")
        page.locator("#turns .note", has_text="finish reason").wait_for()
        assert not errors
        page.close()
