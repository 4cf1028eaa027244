"""The page of flmm serve with the embedded model, used in a real browser."""

import io
import json
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from browsing import Visit, decode_png, position_in_mask, text_of, visiting
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser
from pycocotools import mask as coco
from pycocotools.coco import COCO
from serving import data_url

import flmm
from flmm.answers.palette import phrase_colour

pytest_plugins = ("browser_fixtures",)

DEMO = Path(flmm.__file__).parent / "assets" / "pictures" / "demo.png"
URL = data_url(DEMO.read_bytes())
QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def expected(embedded_address: str) -> tuple[str, list[tuple[str, NDArray[np.bool_]]]]:
    """The answer to the question, and its phrases with their masks."""
    body = {"image": URL, "question": QUESTION}
    answer = httpx.post(f"{embedded_address}/v1/ground", json=body, timeout=60).json()
    phrases = [
        (phrase["text"], np.asarray(coco.decode(phrase["mask"]), dtype=bool))
        for phrase in answer["phrases"]
    ]
    return answer["text"], phrases


def test_words_and_masks_appear_during_generation(
    visit: Visit, expected: tuple[str, list[tuple[str, NDArray[np.bool_]]]]
) -> None:
    text, phrases = expected
    visit.choose_bundled()
    visit.record_changes()
    turn = visit.ask(QUESTION)
    assert text_of(turn.locator(".answer")) == text
    changes = visit.changes()
    partial = [state for state in changes if state.runs and 0 < len(state.text) < len(text)]
    assert len({state.text for state in partial}) > 10
    assert partial[0].at < changes[-1].at - 50
    # A phrase's mask appears no later than the next words, long before the end.
    first = next(state for state in partial if state.masks)
    assert first.text.startswith(text[: text.index(phrases[0][0]) + len(phrases[0][0])])
    assert len(first.text) < len(text) / 2
    buttons = turn.get_by_role("button")
    assert buttons.all_text_contents() == [name for name, _ in phrases]
    assert visit.page.locator("#frame .layer").count() == len(phrases)
    for index in range(len(phrases)):
        colour = visit.page.locator("#frame .badge").nth(index)
        shown = colour.evaluate("badge => getComputedStyle(badge).backgroundColor")
        assert shown == f"rgb{phrase_colour(index)}"
    assert text_of(visit.page.locator("#announcement")).startswith(text)


def test_hover_highlights_a_phrase_and_click_asks_about_it(
    visit: Visit, expected: tuple[str, list[tuple[str, NDArray[np.bool_]]]]
) -> None:
    page = visit.page
    visit.choose_bundled()
    turn = visit.ask(QUESTION)
    name, mask = expected[1][1]
    assert page.locator(".masked.lifting").count() == 0
    turn.get_by_role("button", name=name).hover()
    assert page.locator("#frame .layer.lifted").count() == 1
    assert text_of(page.locator("#fact strong")) == name
    page.locator("#words").hover()
    assert page.locator(".masked.lifting").count() == 0

    picture, position = page.locator("#frame .masked"), position_in_mask(visit, mask)
    picture.hover(position=position)  # type: ignore[arg-type]
    assert page.locator("#frame .name").is_visible()
    assert text_of(page.locator("#frame .name")) == name
    assert page.locator(".phrase.lifted").all_text_contents() == [name]

    with page.expect_request("**/v1/chat/completions") as waited:
        picture.click(position=position)  # type: ignore[arg-type]
    second = visit.wait_for_turn(1)
    assert text_of(second.locator(".question")) == f"Where is the {name.removeprefix('a ')}?"
    assert text_of(second.locator(".answer"))
    sent = json.loads(waited.value.post_data or "")
    assert len(sent["messages"]) == 1  # the embedded model need not know the answer before
    # Hovering over the first answer's phrases shows its masks again.
    turn.get_by_role("button").first.hover()
    assert page.locator("#frame .layer").count() == len(expected[1])


def test_keyboard_alone(visit: Visit) -> None:
    page = visit.page
    visit.press_until("Tab", "Snow at night")
    page.keyboard.press("Enter")
    page.locator("#frame img").wait_for()
    assert visit.focused() == "Question"
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    turn = visit.wait_for_turn(0)
    name = text_of(turn.get_by_role("button").last)
    visit.press_until("Shift+Tab", name)
    assert text_of(page.locator("#fact strong")) == name
    page.keyboard.press("Enter")
    assert page.locator(".phrase[aria-pressed=true]").all_text_contents() == [name]
    visit.press_until("Shift+Tab", "Ask about it")
    visit.press_until("Shift+Tab", "1, .*")
    page.keyboard.press("ArrowRight")
    assert visit.focused().startswith("2, ")
    assert page.locator("#frame .layer.lifted").count() == 1
    page.keyboard.press("Enter")
    assert "Where is the" in text_of(visit.wait_for_turn(1).locator(".question"))
    assert visit.focused() == "Question"
    visit.press_until("Shift+Tab", "Masks")
    page.keyboard.press("ArrowRight")
    page.locator("#frame .heat").wait_for()
    visit.press_until("Tab", "Layer")
    page.keyboard.press("ArrowRight")
    assert page.get_by_label("Layer").get_attribute("aria-valuetext") == "1 of 4"
    visit.press_until("Shift+Tab", "Another picture")
    page.keyboard.press("Enter")
    assert visit.focused() == "Choose a picture"


def test_find_a_phrase(visit: Visit) -> None:
    page = visit.page
    visit.choose_bundled()
    visit.choose_view("Find")
    page.get_by_label("Phrase to find").fill("the cat")
    page.keyboard.press("Enter")
    turn = visit.wait_for_turn(0)
    assert turn.get_by_role("button").all_text_contents() == ["the cat"]
    assert page.locator("#frame .layer").count() == 1


def test_attention_of_a_word_layer_by_layer(visit: Visit, embedded_address: str) -> None:
    page = visit.page
    visit.choose_bundled()
    turn = visit.ask(QUESTION)
    turn.get_by_role("button").nth(2).click()
    name = text_of(turn.get_by_role("button").nth(2))
    page.get_by_role("button", name="Show attention").click()
    page.locator("#frame .heat").wait_for()
    assert page.locator("#word option:checked").text_content() == name
    shown = {}
    for layer, head in ((None, None), (1, None), (1, 4)):
        for id, value in (("layer", layer), ("head", head)):
            page.locator(f"#{id}").fill("0" if value is None else str(value + 1))
        body = {
            "image": URL, "question": QUESTION, "answer": text_of(turn.locator(".answer")),
            "words": [name], "layer": layer, "head": head,
        }  # fmt: skip
        reply = httpx.post(f"{embedded_address}/v1/attend", json=body, timeout=60).json()
        expected = decode_png(reply["words"][0]["map"]["png"])
        canvas = decode_png(page.locator("#frame .heat").evaluate("heat => heat.toDataURL()"))
        rows, columns = expected.shape
        step = canvas.shape[0] // rows, canvas.shape[1] // columns
        alpha = canvas[step[0] // 2 :: step[0], step[1] // 2 :: step[1], 3]
        assert (
            np.corrcoef(alpha.ravel(), np.minimum(expected, np.quantile(expected, 0.995)).ravel())[
                0, 1
            ]
            > 0.98
        )
        shown[layer, head] = alpha
        share = text_of(page.locator("#attention-note"))
        shown_share = float(share.partition(" %")[0])
        assert shown_share == pytest.approx(100 * reply["words"][0]["on_picture"], abs=0.1)
    assert not np.array_equal(shown[None, None], shown[1, None])
    assert not np.array_equal(shown[1, 4], shown[1, None])


def test_compare_view_shows_three_methods(visit: Visit) -> None:
    page = visit.page
    bodies: list[str] = []
    page.on("request", lambda request: bodies.append(request.post_data or "{}"))
    visit.choose_bundled()
    turn = visit.ask(QUESTION)
    count = turn.get_by_role("button").count()
    visit.choose_view("Compare")
    panels = page.locator("#comparison figure")
    names = panels.locator("strong").all_text_contents()
    assert names == ["K-means", "Mask decoder", "Refined"]
    for index in range(3):
        panels.nth(index).locator(".layer").nth(count - 1).wait_for()
    options = [json.loads(body).get("grounding") for body in bodies]
    assert {"method": "kmeans"} in options
    assert {"refine": False} in options
    drawn = panels.locator(".layer").evaluate_all("all => all.map(layer => layer.toDataURL())")
    assert len(set(drawn)) == 3 * count
    turn.get_by_role("button").first.hover()
    assert panels.locator(".layer.lifted").count() == 3


def test_downloads(
    visit: Visit, expected: tuple[str, list[tuple[str, NDArray[np.bool_]]]], tmp_path: Path
) -> None:
    visit.choose_bundled()
    for button in ("Overlay PNG", "COCO JSON", "Masks ZIP"):
        assert visit.page.get_by_role("button", name=button).is_disabled()
    # The other views say what to do first.
    visit.choose_view("Compare")
    assert visit.page.get_by_text("Ask a question or find something first").is_visible()
    assert visit.page.locator("#comparison").is_hidden()
    visit.choose_view("Attention")
    assert visit.page.get_by_text("Ask a question first").is_visible()
    assert visit.page.locator("#word").is_hidden()
    visit.choose_view("Masks")
    visit.ask(QUESTION)
    name, content = visit.download("COCO JSON")
    assert name == "demo-flmm.json"
    (tmp_path / name).write_bytes(content)
    data = COCO(str(tmp_path / name))
    (image,) = data.loadImgs(data.getImgIds())
    assert (image["file_name"], image["width"], image["height"]) == ("demo.png", 384, 384)
    annotations = data.loadAnns(data.getAnnIds())
    names = [data.loadCats(annotation["category_id"])[0]["name"] for annotation in annotations]
    assert names == [text for text, _ in expected[1]]
    masks = [data.annToMask(annotation).astype(bool) for annotation in annotations]
    for annotation, mask, (_, expected_mask) in zip(annotations, masks, expected[1], strict=True):
        assert (mask != expected_mask).mean() < 0.01
        assert annotation["area"] == mask.sum()

    name, content = visit.download("Masks ZIP")
    assert name == "demo-masks.zip"
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        assert packed.testzip() is None
        assert packed.namelist()[0] == f"01-{names[0].replace(' ', '-')}.png"
        for entry, mask in zip(packed.namelist(), masks, strict=True):
            with Image.open(io.BytesIO(packed.read(entry))) as opened:
                assert opened.mode == "L"
                assert np.array_equal(np.asarray(opened), mask * np.uint8(255))

    name, content = visit.download("Overlay PNG")
    assert name == "demo-flmm.png"
    overlay = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=float)
    assert overlay.shape[1] == 720
    assert overlay.shape[0] > 740
    # Badges are where the page has them: the overlay has a badge's colour beside its centre.
    for index, badge in enumerate(visit.page.locator("#frame .badge").all()):
        left, top = (
            round(float(badge.evaluate(f"badge => parseFloat(badge.style.{side})")) * 7.2)
            for side in ("left", "top")
        )
        assert np.abs(overlay[top, left + 10] - phrase_colour(index)).max() < 40
    with Image.open(DEMO) as opened:
        plain = np.asarray(opened.convert("RGB").resize((720, 720)), dtype=float)
    changed = np.abs(overlay[:720] - plain).sum(-1)
    for mask in masks:
        shown = np.asarray(Image.fromarray(mask).resize((720, 720), Image.Resampling.NEAREST))
        assert changed[shown].mean() > 20


def test_every_control_has_a_name(visit: Visit) -> None:
    page = visit.page
    visit.choose_bundled()
    turn = visit.ask(QUESTION)
    turn.get_by_role("button").first.click()
    for view in ("Masks", "Attention", "Compare"):
        visit.choose_view(view)
        tree = page.locator("body").aria_snapshot()
        lines = [line.strip("- ").rstrip(":") for line in tree.splitlines()]
        controls = ("button", "radio", "textbox", "combobox", "slider", "img", "group")
        control_lines = [line for line in lines if line.split(" ")[0] in controls]
        assert len(control_lines) > 15
        for line in control_lines:
            assert '"' in line, f"{line!r} has no name"
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.get_by_role("status").count() >= 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_a_phone(browser: Browser, embedded_address: str, scheme: str) -> None:
    with visiting(browser, embedded_address, 360, 740) as visit:
        page = visit.page
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        wide = "document.documentElement.scrollWidth"
        assert page.evaluate(wide) == 360
        visit.choose_bundled()
        visit.ask(QUESTION).get_by_role("button").first.click()
        for view in ("Masks", "Attention", "Compare"):
            visit.choose_view(view)
            assert page.evaluate(wide) == 360
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (dark == "rgb(19, 20, 24)") == (scheme == "dark")
