"""The page with failing servers, unusable pictures and hostile answers."""

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httpx
import pytest
import torch
from browsing import Visit, launch_chromium, visiting
from playwright.sync_api import Browser
from serving import encode_picture, noise, run_server
from tiny_grounding import tiny_head
from torch import Tensor, nn
from transformers.cache_utils import Cache

import flmm
from flmm.grounding.grounder import Grounder
from flmm.lmm.families.llava import LlavaAdapter
from flmm.serve.settings import Limits, ServerSettings

KEY = "correct horse"
HOSTILE = "a <script>alert(1)</script> <img src=x onerror=alert(2)> &amp; 🐈 cat"
REFUSED = "the server responded with a status of"
"""How the console reports any error status."""


class FixedAnswerHead(nn.Module):
    """An LM head that generates one text for any prompt, and then the end token."""

    def __init__(self, token_ids: list[int], vocabulary_size: int) -> None:
        super().__init__()
        self.token_ids = token_ids
        self.num_generated = 0
        self.vocabulary_size = vocabulary_size
        self.seconds_per_token = 0.0

    def forward(self, states: Tensor) -> Tensor:
        time.sleep(self.seconds_per_token)
        logits = torch.zeros(*states.shape[:-1], self.vocabulary_size)
        logits[..., self.token_ids[self.num_generated]] = 1
        self.num_generated = (self.num_generated + 1) % len(self.token_ids)
        return logits


@pytest.fixture(scope="module")
def lm_head() -> FixedAnswerHead:
    tokenizer = LlavaAdapter.build_tiny().tokenizer
    token_ids = tokenizer(HOSTILE, add_special_tokens=False)["input_ids"]
    end_token_id = cast(int, tokenizer.eos_token_id)
    return FixedAnswerHead([*cast(list[int], token_ids), end_token_id], len(tokenizer))


def build_grounder(lm_head: FixedAnswerHead) -> Grounder:
    """A grounder whose LMM generates what the LM head does."""
    adapter = LlavaAdapter.build_tiny()
    adapter.model.set_submodule("lm_head", lm_head)

    def start_over(_module: nn.Module, _args: object, options: dict[str, object]) -> None:
        cache = options.get("cache")
        if isinstance(cache, Cache) and cache.get_seq_length() == 0:
            lm_head.num_generated = 0

    adapter.model.register_forward_pre_hook(start_over, with_kwargs=True)
    return Grounder(adapter, tiny_head(), model="fixed-answer")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(browser: Browser, lm_head: FixedAnswerHead) -> Iterator[str]:
    del browser
    settings = ServerSettings(
        port=0, api_key=KEY, queue_capacity=1, limits=Limits(pixels=200_000, body_seconds=60)
    )
    with run_server(build_grounder(lm_head), settings) as address:
        yield address


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    """The page, with the API key entered."""
    wait_until_free(address)
    with visiting(browser, address, expected=(REFUSED,)) as visit:
        visit.page.get_by_label("API key").fill(KEY)
        visit.page.keyboard.press("Enter")
        visit.page.get_by_text("fixed-answer").wait_for()
        yield visit


def status(visit: Visit) -> str:
    visit.page.locator("#status:not(:empty)").wait_for()
    return visit.page.locator("#status").text_content() or ""


def choose_file(visit: Visit, name: str, kind: str, content: bytes) -> None:
    file = {"name": name, "mimeType": kind, "buffer": content}
    visit.page.locator("#file").set_input_files(file)  # type: ignore[arg-type]


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
    assert page.locator("img:not(#bundled img):not(.masked img)").count() == 0
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
        stored = page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]")
        assert stored == [1, 0, ""]


def test_busy_server_shows_when_to_try_again(visit: Visit, address: str) -> None:
    visit.choose_bundled()
    with unfinished_request(address):
        visit.page.get_by_label("Question", exact=True).fill("what?")
        visit.page.keyboard.press("Enter")
        assert re.fullmatch(r"The server is busy\. Try again in \d+ seconds?\.", status(visit))
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


def wait_until_free(address: str) -> None:
    while httpx.get(f"{address}/healthz").json()["served"]:
        time.sleep(0.01)


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


def test_unusable_pictures_are_reported(visit: Visit) -> None:
    choose_file(visit, "notes.png", "image/png", b"no picture at all")
    complaint = visit.page.locator("#complaint:not(:empty)")
    complaint.wait_for()
    assert complaint.text_content() == "notes.png is no picture that this browser can read."
    choose_file(visit, "large.png", "image/png", encode_picture(noise(600, 400)))
    visit.page.get_by_label("Question", exact=True).fill("what?")
    visit.page.keyboard.press("Enter")
    assert status(visit) == ("The picture has 600 x 400 pixels; send one of at most 200000.")
    assert visit.page.locator("#status").get_attribute("aria-live") == "polite"
    assert visit.page.locator("#status").is_visible()


def test_unreachable_server_is_reported(visit: Visit) -> None:
    visit.choose_bundled()
    visit.page.context.set_offline(True)
    visit.page.get_by_label("Question", exact=True).fill("what?")
    visit.page.keyboard.press("Enter")
    assert status(visit) == "The server cannot be reached. Is it still running?"
    visit.page.context.set_offline(False)
    visit.page.keyboard.press("Enter")
    visit.wait_for_turn(0)
    visit.errors[:] = [error for error in visit.errors if "ERR_INTERNET" not in error]


_PASTE_OR_DROP = """
([kind, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "handed.bmp", { type: "image/bmp" }));
  const details = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
  const type = kind === "paste" ? ClipboardEvent : DragEvent;
  document.body.dispatchEvent(new type(kind, details));
}
"""


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_pasted_or_dropped_bmp_is_sent_as_png(visit: Visit, kind: str) -> None:
    visit.page.evaluate(_PASTE_OR_DROP, [kind, list(encode_picture(noise(90, 60), "BMP"))])
    visit.page.locator("#frame img").wait_for()
    with visit.page.expect_request("**/v1/chat/completions") as waited:
        visit.ask("what?")
    assert '"data:image/png;base64,' in (waited.value.post_data or "")


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
