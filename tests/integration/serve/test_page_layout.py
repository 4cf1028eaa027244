"""The page on screens of all sizes: nothing is covered, and axe-core finds nothing."""

from collections.abc import Iterator
from typing import cast

import pytest
from browsing import Visit, visiting
from playwright.sync_api import Browser

pytest_plugins = ("browser_fixtures",)

SIZES = {
    "desktop": (1280, 800),
    "narrow desktop": (833, 800),
    "tablet": (1010, 700),
    "phone": (390, 844),
    "small phone": (360, 640),
    "landscape phone": (844, 390),
    "200 %": (640, 400),
    "400 %": (320, 200),
}
_FIND_COVERED = """
() => {
  // Of each control: scrolled into view, who is at its middle?
  const covered = [];
  const controls = document.querySelectorAll("button, input, select, #fact, .answer, .note");
  for (const control of controls) {
    if (!control.checkVisibility() || control.type === "file") continue;
    const shown = control.type === "radio" ? control.nextElementSibling : control;
    control.scrollIntoView({ block: "nearest", behavior: "instant" });
    // The first line of a text that is broken into several.
    const { left, top, width, height } = shown.getClientRects()[0] ?? {};
    if (!width || !height) continue;
    const [x, y] = [left + width / 2, top + Math.min(height / 2, 20)];
    const name = control.id || control.textContent || control.value;
    const found = document.elementFromPoint(x, y);
    if (found === null) covered.push(`${name} is out of sight at ${x}, ${y}`);
    else if (found.closest("label") === null || !shown.closest("label")?.contains(found)) {
      const isBadge = shown.matches(".badge") && found.matches(".badge");
      if (!shown.contains(found) && !found.contains(shown) && !isBadge) {
        covered.push(`${name} is below ${found.id || found.className || found.tagName}`);
      }
    }
  }
  return covered;
}
"""
_FIND_OVERLAPS = """
() => {
  // Rectangles of the parts that may stay in view while others are scrolled.
  const parts = ["viewer", "attention", "comparison", "downloads", "said", "composer"]
    .map((id) => document.getElementById(id)).filter((part) => part.checkVisibility());
  const overlaps = [];
  const check = () => {
    const sticky = parts.filter((part) => getComputedStyle(part).position === "sticky");
    for (const one of sticky) for (const other of sticky) {
      if (one === other) continue;
      const [a, b] = [one.getBoundingClientRect(), other.getBoundingClientRect()];
      const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (width > 1 && height > 1) overlaps.push(`${one.id} and ${other.id}`);
    }
    const heights = sticky.map((part) => part.getBoundingClientRect().height);
    const room = heights.reduce((left, height) => left - height, innerHeight);
    if (room < 150) overlaps.push(`${room} px are left for the answer`);
  };
  for (const position of [0, 0.5, 1]) {
    scrollTo({ top: position * document.documentElement.scrollHeight, behavior: "instant" });
    check();
  }
  // Without stickiness nothing may lie over anything.
  scrollTo({ top: 0, behavior: "instant" });
  const [stage, composer] = ["stage", "composer"].map((id) => document.getElementById(id));
  if (getComputedStyle(composer).position === "static" && stage.getClientRects().length) {
    const [a, b] = [stage.getBoundingClientRect(), composer.getBoundingClientRect()];
    const isBeside = a.right <= b.left + 1;
    if (!isBeside && a.bottom > b.top + 1 && b.bottom > a.top + 1) overlaps.push("stage");
  }
  return overlaps;
}
"""
_FIND_SMALL_TARGETS = """
() => [...document.querySelectorAll("button:not(.phrase, .badge), input:not([type=file]), select")]
  .filter((control) => control.checkVisibility())
  .map((control) => [control.id || control.textContent || control.value,
                     control.getBoundingClientRect()])
  .filter(([, { width, height }]) => width < 43.5 || height < 43.5)
  .map(([name, { width, height }]) => `${name}: ${width} x ${height}`)
"""


@pytest.fixture(scope="module")
def talk(browser: Browser, embedded_address: str) -> Iterator[Visit]:
    """A visit with a conversation of four turns, a phrase of which is selected."""
    with visiting(browser, embedded_address) as visit:
        visit.page.emulate_media(reduced_motion="reduce")
        visit.choose_bundled()
        for question in ("Where is the dog?", "Where is the cat?", "What is the ground?"):
            visit.ask(question)
        turn = visit.ask("What is in the picture?")
        turn.get_by_role("button").first.click()
        yield visit


@pytest.mark.parametrize("size", SIZES)
def test_nothing_covers_anything(talk: Visit, size: str) -> None:
    width, height = SIZES[size]
    page = talk.page
    page.set_viewport_size({"width": width, "height": height})
    for view in ("Masks", "Attention", "Compare"):
        talk.choose_view(view)
        if view == "Attention":
            page.locator("#frame .heat").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(_FIND_OVERLAPS) == [], view
        assert page.evaluate(_FIND_COVERED) == [], view
    talk.choose_view("Masks")


def test_compared_pictures_are_large(talk: Visit) -> None:
    page = talk.page
    talk.choose_view("Compare")
    for size, least in (("desktop", 320), ("phone", 340)):
        width, height = SIZES[size]
        page.set_viewport_size({"width": width, "height": height})
        for panel in page.locator("#comparison .masked").all():
            box = panel.bounding_box()
            assert box is not None
            assert box["width"] >= least
    talk.choose_view("Masks")


def test_colours_are_those_of_the_shown_turn(talk: Visit) -> None:
    colour = "button => getComputedStyle(button).backgroundColor"
    first, last = talk.turns.first, talk.turns.last
    assert first.locator(".phrase").first.evaluate(colour) == "rgba(0, 0, 0, 0)"
    assert last.locator(".phrase").first.evaluate(colour) != "rgba(0, 0, 0, 0)"
    first.get_by_role("button").first.hover()
    assert last.locator(".phrase").first.evaluate(colour) == "rgba(0, 0, 0, 0)"


def test_fingers_hit_everything_and_no_keyboard_opens(
    browser: Browser, embedded_address: str
) -> None:
    with visiting(browser, embedded_address, 390, 844, has_touch=True) as visit:
        page = visit.page
        assert page.evaluate(_FIND_SMALL_TARGETS) == []
        assert not page.get_by_text("drop one here").is_visible()
        visit.choose_bundled()
        assert visit.focused() == ""
        page.get_by_role("button", name="What is in the background?").tap()
        turn = visit.wait_for_turn(0)
        assert visit.focused() != "Question"
        turn.get_by_role("button").first.tap()
        for view in ("Masks", "Attention", "Compare"):
            visit.choose_view(view)
            assert page.evaluate(_FIND_SMALL_TARGETS) == [], view
        assert page.get_by_text("click").count() == 0


def test_axe_finds_nothing_in_any_state(browser: Browser, embedded_address: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def check(visit: Visit, state: str) -> None:
        violations = cast(list[dict[str, object]], axe.run(visit.page).response["violations"])
        found = [(each["id"], each["nodes"]) for each in violations]
        assert found == [], state

    with visiting(browser, embedded_address) as visit:
        page = visit.page
        page.emulate_media(reduced_motion="reduce")
        check(visit, "start")
        visit.choose_bundled()
        check(visit, "picture")
        for view in ("Attention", "Compare"):
            visit.choose_view(view)
            check(visit, f"{view} without a question")
        visit.choose_view("Masks")
        visit.ask("What is in the background?").get_by_role("button").first.click()
        visit.choose_view("Find")
        page.get_by_label("Phrase to find").fill("the dog, the unicorn")
        page.keyboard.press("Enter")
        turn = visit.wait_for_turn(1)
        turn.get_by_role("button").last.click()
        page.route("**/v1/**", lambda route: route.abort())
        page.get_by_label("Phrase to find").fill("the cat")
        page.keyboard.press("Enter")
        page.locator("#status.problem").wait_for()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            check(visit, f"conversation, {scheme}")
        page.unroute("**/v1/**")
        visit.turns.first.get_by_role("button").first.click()
        for view in ("Attention", "Compare"):
            visit.choose_view(view)
            check(visit, f"{view}, dark")
        page.set_viewport_size({"width": 390, "height": 844})
        check(visit, "phone")
        page.evaluate("document.getElementById('key').showModal()")
        check(visit, "key")
        visit.errors[:] = [error for error in visit.errors if "ERR_FAILED" not in error]
