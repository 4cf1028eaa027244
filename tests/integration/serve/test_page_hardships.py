"""The page with failing servers and hostile answers."""

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from browsing import Visit, visiting
from fixed_answers import (
    HOSTILE,
    KEY,
    REFUSED,
    FixedAnswerHead,
    visiting_with_key,
    wait_until_free,
)
from playwright.sync_api import Browser

import flmm

pytest_plugins = ("browser_fixtures", "fixed_answer_fixtures")


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    with visiting_with_key(browser, address) as visit:
        yield visit


def test_answers_are_shown_as_text(visit: Visit) -> None:
    page = visit.page
    visit.choose_bundled()
    turn = visit.ask("<b>what?</b>")
    assert turn.locator(".answer").text_content() == HOSTILE
    assert turn.locator(".question").text_content() == "<b>what?</b>"
    phrases = turn.get_by_role("button").all_text_contents()
    assert "script" in " ".join(phrases)
    for index in range(3):
        turn.get_by_role("button").nth(index).hover()
    for view in ("Attention", "Compare", "Masks"):
        visit.choose_view(view)
    assert page.locator("#log script, #log img, #log b, #stage script").count() == 0
    assert page.locator("img:not(#bundled img, .masked img, #pictures img)").count() == 0
    # Even a bug in the page could not run it.
    for script in (
        "document.body.innerHTML = '<img src=x onerror=alert(3)>'",
        "document.body.append(document.createElement('script').text = 'alert(4)')",
    ):
        page.evaluate(f"() => {{ try {{ {script} }} catch {{}} }}")
    assert page.locator("body > img").count() == 0
    expected = [error for error in visit.errors if "requires 'Trusted" in error]
    assert len(expected) == 2
    for error in expected:
        visit.errors.remove(error)


def test_api_key_is_asked_for_until_it_is_right(browser: Browser, address: str) -> None:
    wait_until_free(address)
    with visiting(browser, address, expected=(REFUSED,)) as visit:
        page = visit.page
        dialog = page.get_by_role("dialog", name="This server wants a key")
        dialog.wait_for()
        page.get_by_label("API key").fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_text("does not take that key").wait_for()
        page.get_by_role("button", name="Cancel").click()
        assert not dialog.is_visible()
        # Without it, the first question asks again.
        visit.choose_bundled()
        page.get_by_label("Question", exact=True).fill("what?")
        page.keyboard.press("Enter")
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Use it").click()
        assert visit.wait_for_turn(0).locator(".answer").text_content() == HOSTILE
        names = page.evaluate("Object.keys(sessionStorage)")
        # The key, and the conversation's pictures and turns.
        assert sorted(name.rpartition("-")[2] for name in names) == ["key", "pictures", "turns"]
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


def test_busy_server_shows_when_to_try_again(visit: Visit, address: str) -> None:
    visit.choose_bundled()
    with unfinished_request(address):
        visit.page.get_by_label("Question", exact=True).fill("what?")
        visit.page.keyboard.press("Enter")
        assert re.fullmatch(r"The server is busy\. Try again in \d+ s\.", visit.status())
        assert visit.turns.count() == 0
    # The question is still there, so that Enter asks it again.
    assert visit.page.get_by_label("Question", exact=True).input_value() == "what?"
    wait_until_free(address)
    visit.page.keyboard.press("Enter")
    visit.wait_for_turn(0)
    assert visit.page.locator("#status").text_content() == ""


class unfinished_request:  # noqa: N801 - used as a statement
    """Takes the server's only slot with a body that does not end."""

    def __init__(self, address: str) -> None:
        self.url = urlsplit(address)

    def __enter__(self) -> None:
        self.socket = socket.create_connection((self.url.hostname, self.url.port))
        lines = (
            "POST /v1/ground HTTP/1.1",
            f"Host: {self.url.netloc}",
            f"Authorization: Bearer {KEY}",
            "Content-Type: application/json",
            "Content-Length: 1000",
            "",
            "{",
        )
        self.socket.sendall("\r\n".join(lines).encode())
        address = self.url.geturl()
        while httpx.get(f"{address}/healthz").json()["served"] != 1:
            time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def test_stop_keeps_the_partial_answer(
    visit: Visit, address: str, lm_head: FixedAnswerHead
) -> None:
    page = visit.page
    lm_head.seconds_per_token = 0.1
    visit.choose_bundled()
    page.get_by_role("button", name="What is in the picture?").click()
    page.locator(".answer:not(:empty)").wait_for()
    page.get_by_role("button", name="Stop").click()
    turn = visit.wait_for_turn(0)
    text = turn.locator(".answer").text_content() or ""
    assert HOSTILE.startswith(text)
    assert len(text) < len(HOSTILE)
    assert turn.get_by_text("Stopped.").is_visible()
    wait_until_free(address)
    lm_head.seconds_per_token = 0.0
    assert visit.ask("again?").locator(".answer").text_content() == HOSTILE


def test_unreachable_server_is_reported(visit: Visit) -> None:
    visit.choose_bundled()
    visit.page.context.set_offline(True)
    visit.page.get_by_label("Question", exact=True).fill("what?")
    visit.page.keyboard.press("Enter")
    assert visit.status() == "The server cannot be reached. Is it still running?"
    visit.page.context.set_offline(False)
    visit.page.keyboard.press("Enter")
    visit.wait_for_turn(0)
    visit.errors[:] = [error for error in visit.errors if "ERR_INTERNET" not in error]


def test_only_the_pages_files_need_no_key(address: str) -> None:
    page = httpx.get(address)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["content-encoding"] == "gzip"
    again = httpx.get(address, headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    plain = httpx.get(f"{address}/page/main.js", headers={"accept-encoding": "identity"})
    assert plain.headers["content-type"].startswith("text/javascript")
    assert "content-encoding" not in plain.headers
    assert len(httpx.get(f"{address}/page/about").json()["pictures"]) >= 3
    for path in ("/page/../app.py", "/page/%2e%2e%2fapp.py", "/page/none.js", "/page/"):
        assert httpx.get(address + path).status_code in (401, 404)
    assert httpx.get(f"{address}/v1/models").status_code == 401
    linked = page.text.count('rel="modulepreload"')
    modules = [route for route in page_files() if route.endswith(".js")]
    assert linked == len(modules)
    for name in modules:
        assert f'href="/page/{name}"' in page.text
        assert httpx.get(f"{address}/page/{name}").status_code == 200


def page_files() -> list[str]:
    return [
        path.name for path in (Path(flmm.__file__).parent / "serve" / "page" / "static").iterdir()
    ]
