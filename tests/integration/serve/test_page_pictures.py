"""The page with large and unusable pictures, and with several in one conversation."""

import base64
import io
import json
from collections.abc import Iterator

import pytest
from browsing import Visit
from fixed_answers import visiting_with_key
from PIL import Image
from playwright.sync_api import Browser
from pycocotools import mask as coco
from serving import encode_picture, noise

pytest_plugins = ("browser_fixtures", "fixed_answer_fixtures")

_PASTE_OR_DROP = """
([kind, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "handed.bmp", { type: "image/bmp" }));
  const details = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
  const type = kind === "paste" ? ClipboardEvent : DragEvent;
  document.body.dispatchEvent(new type(kind, details));
}
"""


SECOND = encode_picture(noise(90, 60))


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    with visiting_with_key(browser, address) as visit:
        yield visit


def add_picture(visit: Visit) -> None:
    """Add the file second.png to the conversation."""
    with visit.page.expect_file_chooser() as chooser:
        visit.page.get_by_role("button", name="Add a picture").click()
    file = {"name": "second.png", "mimeType": "image/png", "buffer": SECOND}
    chooser.value.set_files(file)  # type: ignore[arg-type]
    visit.page.get_by_role("button", name="Picture 2: second.png").wait_for()


def test_unusable_pictures_are_reported(visit: Visit) -> None:
    visit.choose_file("notes.png", "image/png", b"no picture at all")
    complaint = visit.page.locator("#complaint:not(:empty)")
    complaint.wait_for()
    assert complaint.text_content() == "notes.png is no picture that this browser can read."


def test_large_pictures_are_shrunk_and_masks_have_their_size(visit: Visit) -> None:
    visit.choose_file("large.png", "image/png", encode_picture(noise(600, 400)))
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


def test_each_phrase_is_on_its_own_picture(visit: Visit) -> None:
    page = visit.page
    visit.choose_bundled()
    add_picture(visit)
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
    assert base64.b64decode(url.partition(",")[2]) == SECOND
    visit.wait_for_turn(1)
    # So it is when it is asked again after the conversation was left.
    page.route("**/v1/segment", lambda _: None)
    page.get_by_label("Phrase to find").fill("a dog")
    page.keyboard.press("Enter")
    page.locator("#log .running").wait_for()
    page.go_back()
    page.get_by_role("button", name="Choose a picture").wait_for()
    page.go_forward()
    page.unroute("**/v1/segment")
    with page.expect_request("**/v1/segment") as waited:
        page.get_by_role("button", name="Retry").click()
    assert json.loads(waited.value.post_data or "")["image"] == url
    visit.wait_for_turn(2)


_FORGET_SECOND_PICTURE = """
() => {
  const key = Object.keys(sessionStorage).find((name) => name.endsWith("-pictures"));
  const pictures = JSON.parse(sessionStorage.getItem(key));
  sessionStorage.setItem(key, JSON.stringify(pictures.slice(0, 1)));
}
"""


def test_a_picture_that_was_not_kept_costs_only_its_turns(visit: Visit) -> None:
    page = visit.page
    visit.choose_bundled()
    visit.choose_view("Find")
    find = page.get_by_label("Phrase to find")
    find.fill("a cat")
    page.keyboard.press("Enter")
    visit.wait_for_turn(0)
    add_picture(visit)
    find.fill("a dog")
    page.keyboard.press("Enter")
    visit.wait_for_turn(1)
    # As where the page is left before the second picture is kept.
    page.evaluate(_FORGET_SECOND_PICTURE)
    page.reload()
    page.get_by_role("img", name="demo.png").wait_for()
    assert visit.turns.count() == 1


def test_a_dropped_picture_begins_a_conversation_though_adding_one_was_begun(visit: Visit) -> None:
    page = visit.page
    visit.choose_bundled()
    with page.expect_file_chooser():
        page.get_by_role("button", name="Add a picture").click()
    # As browsers say it where the chooser is closed without a file.
    page.locator("#file").dispatch_event("cancel")
    page.evaluate(_PASTE_OR_DROP, ["drop", list(encode_picture(noise(90, 60), "BMP"))])
    page.get_by_role("img", name="handed.bmp").wait_for()
    assert page.locator("#pictures").is_hidden()


def test_damaged_picture_is_reported(visit: Visit) -> None:
    page = visit.page
    content = encode_picture(noise(90, 60), "JPEG")
    visit.choose_file("cut.jpg", "image/jpeg", content[: len(content) // 2])
    page.locator("#frame img").wait_for()
    page.get_by_label("Question", exact=True).fill("what?")
    page.keyboard.press("Enter")
    assert visit.status() == "The picture's file is damaged. Save or download it again."


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_pasted_or_dropped_bmp_is_sent_as_png(visit: Visit, kind: str) -> None:
    visit.page.evaluate(_PASTE_OR_DROP, [kind, list(encode_picture(noise(90, 60), "BMP"))])
    visit.page.locator("#frame img").wait_for()
    with visit.page.expect_request("**/v1/chat/completions") as waited:
        visit.ask("what?")
    assert '"data:image/png;base64,' in (waited.value.post_data or "")
