"""A conversation on the page: several turns, back and reload, phrases that are not there."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
from browsing import Visit, text_of, visiting
from PIL import Image
from playwright.sync_api import Browser, Route

pytest_plugins = ("browser_fixtures",)

PICTURE_QUESTION = "What is in the picture?"
TALKS = {
    "A meadow at night": (
        "There is a dog on the left, a cat on the left, a pineapple in the middle and a pizza at"
        " the top. In front is grass and behind is a night sky.",
        "A night sky.", "dog", "on the left", "Grass.", "four",
    ),
    "A street by a wall": (
        "There is an eggplant in the lower left, a balloon at the top, a frog in the middle, a tent"
        " at the bottom, a butterfly at the top and a sheep in the lower right. In front is a road"
        " and behind is a brick wall.",
        "A brick wall.", "sheep", "in the lower right", "A road.", "six",
    ),
    "The sea at sunset": (
        "There is a cupcake in the upper left, a basketball at the bottom, a frog in the middle and"
        " a pig in the upper right. In front is water and behind is a sunset.",
        "A sunset.", "basketball", "at the bottom", "Water.", "four",
    ),
    "Snow at night": (
        "There is a bell in the lower left, a tent in the middle, a hedgehog in the upper right and"
        " a teddy bear on the right. In front is snow and behind is a night sky.",
        "A night sky.", "hedgehog", "in the upper right", "Snow.", "four",
    ),
}  # fmt: skip
"""What is true of each bundled picture: caption, backdrop, a thing, its place, ground, number."""


_ANSWER_WITHOUT_END = """
(data) => {
  const original = fetch;
  window.fetch = async (path, options) => {
    if (!path.endsWith("/completions")) return original(path, options);
    window.fetch = original;
    const body = new ReadableStream({
      start(controller) {
        controller.enqueue(new TextEncoder().encode(`data: ${data}\\n\\n`));
        options.signal.addEventListener("abort", () => controller.error(options.signal.reason));
      },
    });
    return new Response(body);
  };
}
"""


def test_six_turns_over_each_bundled_picture_are_answered_right(visit: Visit) -> None:
    for title, (caption, backdrop, thing, place, ground, number) in TALKS.items():
        visit.choose_bundled(title)
        for question, answer in (
            ("What is in the background?", backdrop),
            (f"Is there a {thing}?", f"Yes, there is a {thing} {place}."),
            ("Where is it?", f"It is {place}."),
            ("What is the ground?", ground),
            ("How many things are there?", f"There are {number} things."),
            (PICTURE_QUESTION, caption),
        ):
            assert text_of(visit.ask(question).locator(".answer")) == answer, (title, question)
        assert visit.page.get_by_text("This small model takes one question at a time.").is_visible()
        visit.page.get_by_role("button", name="Another picture").click()


def test_back_reload_and_new_conversation(visit: Visit) -> None:
    page = visit.page
    visit.choose_bundled("The sea at sunset")
    answer = text_of(visit.ask("Where is the pig?").locator(".answer"))
    page.get_by_role("button", name="New conversation").click()
    assert visit.turns.count() == 0
    assert page.get_by_role("img", name="sea.png").is_visible()
    page.get_by_role("button", name="Another picture").click()
    visit.choose_bundled()
    visit.ask("Where is the pizza?")
    page.go_back()
    assert page.get_by_role("button", name="Choose a picture").is_visible()
    page.go_back()
    page.go_back()
    assert text_of(visit.turns.first.locator(".answer")) == answer
    page.reload()
    page.get_by_role("img", name="sea.png").wait_for()
    turn = visit.turns.first
    assert text_of(turn.locator(".answer")) == answer
    turn.get_by_role("button", name="pig").click()
    assert page.locator("#frame .layer").count() == 1
    assert "sure" in text_of(page.locator("#fact"))
    visit.ask("What is in the background?")
    page.go_forward()
    page.go_forward()
    page.go_forward()
    assert text_of(visit.turns.first.locator(".question")) == "Where is the pizza?"


def test_lost_connection_can_be_retried(visit: Visit) -> None:
    page = visit.page
    visit.choose_bundled()

    def cut(route: Route) -> None:
        chunk = {"choices": [{"delta": {"content": "There is a dog on"}}]}
        body = f"data: {json.dumps(chunk)}\n\n"
        route.fulfill(content_type="text/event-stream", body=body)

    page.route("**/v1/chat/completions", cut)
    turn = visit.ask(PICTURE_QUESTION)
    assert turn.get_by_text("Broken off: the connection was lost.").is_visible()
    assert text_of(turn.locator(".question")) == PICTURE_QUESTION
    page.unroute("**/v1/chat/completions")
    turn.get_by_role("button", name="Retry").click()
    assert text_of(visit.wait_for_turn(0).locator(".answer")).startswith("There is a dog on the")
    assert visit.turns.count() == 1


def answer_without_end(visit: Visit, text: str) -> None:
    """Let the next answer be this text, after which nothing comes until it is stopped."""
    data = json.dumps({"choices": [{"delta": {"content": text}}]})
    visit.page.evaluate(_ANSWER_WITHOUT_END, data)


def test_answer_that_was_left_can_be_retried(visit: Visit) -> None:
    page = visit.page
    visit.choose_bundled()
    answer_without_end(visit, "There is")
    page.get_by_role("button", name="What is in the background?").click()
    page.get_by_text("There is").wait_for()
    page.go_back()
    page.get_by_role("button", name="Choose a picture").wait_for()
    page.go_forward()
    page.get_by_role("button", name="Retry").click()
    assert text_of(visit.wait_for_turn(0).locator(".answer")) == "A night sky."


def test_stopped_answers_have_their_phrases(visit: Visit) -> None:
    page = visit.page
    visit.choose_bundled()
    answer_without_end(visit, "There is a dog on the left, a ca")
    page.get_by_label("Question", exact=True).fill(PICTURE_QUESTION)
    page.keyboard.press("Enter")
    page.get_by_text("There is a dog on the left, a ca").wait_for()
    page.keyboard.press("Escape")
    turn = visit.wait_for_turn(0)
    turn.get_by_role("button", name="dog").wait_for()
    assert turn.get_by_role("button").all_text_contents() == ["a dog"]
    assert turn.get_by_text("Stopped.").is_visible()
    page.locator("#frame .layer").wait_for()


def test_too_long_question_is_said_in_plain_words(browser: Browser, embedded_address: str) -> None:
    with visiting(browser, embedded_address, expected=("status of 400",)) as visit:
        visit.choose_bundled()
        question = "Where is the dog? " * 200
        visit.page.get_by_label("Question", exact=True).fill(question)
        visit.page.keyboard.press("Enter")
        visit.page.locator("#status.problem").wait_for()
        assert text_of(visit.page.locator("#status")) == (
            "That is too long for this model. Write less, or start a new conversation."
        )
        assert visit.turns.count() == 0
        field = visit.page.get_by_label("Question", exact=True)
        assert field.input_value() == question.strip()


def test_what_is_not_found_is_grey_and_not_saved(visit: Visit) -> None:
    page = visit.page
    visit.choose_bundled()
    visit.choose_view("Find")
    field = page.get_by_label("Phrase to find")
    field.fill("the unicorn")
    page.keyboard.press("Enter")
    turn = visit.wait_for_turn(0)
    assert turn.get_by_text("Not found in the picture: the unicorn.").is_visible()
    assert turn.locator(".phrase.absent").count() == 1
    assert turn.locator(".phrase[data-number]").count() == 0
    assert page.locator("#frame .badge").count() == 0
    assert "0 phrases are marked" in text_of(page.locator("#announcement"))
    for button in ("Overlay PNG", "Answer HTML", "COCO JSON", "Masks ZIP"):
        assert page.get_by_role("button", name=button).is_disabled()
    field.fill("the dog, the unicorn, the cat")
    page.keyboard.press("Enter")
    turn = visit.wait_for_turn(1)
    assert text_of(turn.locator(".question")) == "Find the dog, the unicorn, the cat"
    assert turn.locator(".phrase[data-number]").all_text_contents() == ["the dog", "the cat"]
    assert page.locator("#frame .badge").all_text_contents() == ["1", "2"]
    annotations = json.loads(visit.download("COCO JSON")[1])["annotations"]
    assert len(annotations) == 2


def test_text_of_one_s_own_is_marked_and_shared(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    visit.choose_bundled()
    visit.choose_view("Mark text")
    text = "A dog & a <cat> wait. There is no pizza."
    page.get_by_label("Text to mark").fill(text)
    page.keyboard.press("Enter")
    turn = visit.wait_for_turn(0)
    assert text_of(turn.locator(".answer")) == text
    names = turn.get_by_role("button").all_text_contents()
    assert len(names) >= 2
    assert "pizza" not in " ".join(names)
    name, content = visit.download("Answer HTML")
    assert name == "demo-flmm.html"
    (tmp_path / name).write_bytes(content)
    assert not re.search(rb"https?://|<script", content)
    other = page.context.new_page()
    requests: list[str] = []
    other.on("request", lambda request: requests.append(request.url.partition(":")[0]))
    other.goto((tmp_path / name).as_uri())
    marks = other.locator("mark").all_text_contents()
    assert [re.sub(r"\d+$", "", mark) for mark in marks] == names
    assert other.locator("img").evaluate("image => image.naturalWidth") == 720
    assert set(requests) == {"file"}


def test_korean_page(browser: Browser, embedded_address: str) -> None:
    with visiting(browser, embedded_address, language="ko-KR", first_button="밤의 풀밭") as visit:
        page = visit.page
        assert page.locator("html").get_attribute("lang") == "ko"
        page.get_by_role("button", name="밤의 풀밭").click()
        page.get_by_role("button", name="What is in the picture?").click()
        visit.wait_for_turn(0)
        shown = page.locator("button:visible:not(.phrase, .badge)").all_text_contents()
        assert {"다른 사진", "새 대화", "묻기"} <= set(shown)
        english = [text for text in shown if re.search("[A-Za-z]{5}", text)]
        assert english == []


def test_small_first_visit_and_a_picture_of_one_s_own(visit: Visit, tmp_path: Path) -> None:
    transferred = visit.page.evaluate(
        "() => [...performance.getEntriesByType('resource'),"
        " ...performance.getEntriesByType('navigation')]"
        ".reduce((total, entry) => total + entry.transferSize, 0)"
    )
    assert 40_000 < transferred <= 120_000
    notice = visit.page.locator("#notice")
    visit.choose_bundled()
    assert not notice.is_visible()
    Image.new("RGBA", (60, 2000), (0, 0, 0, 0)).save(tmp_path / "empty.png")
    visit.page.locator("#file").set_input_files(tmp_path / "empty.png")
    notice.wait_for()
    assert text_of(notice).startswith("The embedded model knows only pictures of its stickers: ")
    assert "--lmm" in text_of(notice)
    shot = visit.page.locator("#frame img").screenshot()
    with Image.open(io.BytesIO(shot)) as opened:
        assert np.asarray(opened.convert("RGB"))[20:-20, 10:-10].min() == 255
    assert visit.page.evaluate("document.documentElement.scrollHeight") < 2500
    visit.page.set_viewport_size({"width": 390, "height": 844})
    position = visit.page.locator("#viewer").evaluate("viewer => getComputedStyle(viewer).position")
    assert position == "static"
    visit.page.set_viewport_size({"width": 1280, "height": 800})
    visit.page.get_by_role("button", name="Another picture").click()
    visit.choose_bundled()
    assert not notice.is_visible()


def test_large_conversations_survive_a_reload(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert len(base64.b64encode((tmp_path / "noise.png").read_bytes())) > 5_500_000
    page.locator("#file").set_input_files(tmp_path / "noise.png")
    page.locator("#frame img").wait_for()
    page.wait_for_function("Object.keys(sessionStorage).some(key => key.endsWith('-pictures'))")
    page.reload()
    page.get_by_role("img", name="noise.png").wait_for()
    visit.choose_view("Find")
    page.get_by_label("Phrase to find").fill("the cat")
    page.keyboard.press("Enter")
    visit.wait_for_turn(0)
    ratio = page.locator("#frame .masked").evaluate("frame => frame.style.aspectRatio")
    assert ratio == "1500 / 1500"
