"""The page with failing servers, unusable pictures and hostile answers."""

import base64
import io
import json
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
from browsing import Visit, visiting
from PIL import Image
from playwright.sync_api import Browser
from pycocotools import mask as coco
from serving import encode_picture, noise, run_server
from tiny_grounding import tiny_head
from torch import Tensor, nn
from transformers.cache_utils import Cache

import flmm
from flmm.grounding.grounder import Grounder
from flmm.lmm.families.llava import LlavaAdapter
from flmm.serve.settings import Limits, ServerSettings

pytest_plugins = ("browser_fixtures",)

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
        assert re.fullmatch(r"The server is busy\. Try again in \d+ s\.", status(visit))
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


def test_large_pictures_are_shrunk_and_masks_have_their_size(visit: Visit) -> None:
    choose_file(visit, "large.png", "image/png", encode_picture(noise(600, 400)))
    visit.page.locator("#frame img").wait_for()
    with visit.page.expect_request("**/v1/chat/completions") as waited:
        turn = visit.ask("what?")
    url = json.loads(waited.value.post_data or "")["messages"][0]["content"][0]["image_url"]["url"]
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as sent:
        assert sent.width * sent.height <= 200_000
        assert sent.width / sent.height == pytest.approx(1.5, abs=0.01)
    turn.get_by_role("button").first.wait_for()
    name, content = visit.download("COCO JSON")
    (image,), annotations = (json.loads(content)[key] for key in ("images", "annotations"))
    assert (name, image["width"], image["height"]) == ("large-flmm.json", 600, 400)
    for annotation in annotations:
        mask = coco.decode(annotation["segmentation"])
        assert mask.shape == (400, 600)
        assert mask.sum() == annotation["area"] > 0


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


def test_each_phrase_is_on_its_own_picture(visit: Visit) -> None:
    page = visit.page
    visit.choose_bundled()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Add a picture").click()
    file = {"name": "second.png", "mimeType": "image/png", "buffer": encode_picture(noise(90, 60))}
    chooser.value.set_files(file)  # type: ignore[arg-type]
    second = page.get_by_role("button", name="Picture 2: second.png")
    assert second.get_attribute("aria-pressed") == "true"
    with page.expect_request("**/v1/chat/completions") as waited:
        turn = visit.ask("what?")
    (message,) = json.loads(waited.value.post_data or "")["messages"]
    assert [part["type"] for part in message["content"]] == ["image_url", "image_url", "text"]
    found = turn.locator(".phrase[data-number]")
    assert found.count() >= 2
    page.get_by_role("button", name="Picture 1: demo.png").click()
    for phrase in found.all():
        # Whichever picture it is on is shown.
        phrase.hover()
        page.locator("#frame .layer.lifted").wait_for()
    page.reload()
    page.get_by_role("img", name="demo.png").wait_for()
    assert page.locator("#pictures button").count() == 2
    # What is asked of one picture alone is asked of the shown one.
    second.click()
    visit.choose_view("Find")
    page.get_by_label("Phrase to find").fill("a cat")
    with page.expect_request("**/v1/segment") as waited:
        page.keyboard.press("Enter")
    url = json.loads(waited.value.post_data or "")["image"]
    assert base64.b64decode(url.partition(",")[2]) == file["buffer"]
    visit.wait_for_turn(1)


def test_damaged_picture_is_reported(visit: Visit) -> None:
    page = visit.page
    content = encode_picture(noise(90, 60), "JPEG")
    choose_file(visit, "cut.jpg", "image/jpeg", content[: len(content) // 2])
    page.locator("#frame img").wait_for()
    page.get_by_label("Question", exact=True).fill("what?")
    page.keyboard.press("Enter")
    assert status(visit) == "The picture's file is damaged. Save or download it again."


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
