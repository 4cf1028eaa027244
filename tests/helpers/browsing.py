"""A real Chromium, watched: what it asks for, what it complains about, what the page does."""

import base64
import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Dialog, Download, Locator, Page, Request, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

# Notes down how the answer and its masks look at each change, in the order in which they happen.
_NOTE_CHANGES = """
() => {
  window.seen = [];
  const note = () => {
    const turn = document.querySelector("#log li:last-child");
    if (!turn) return;
    seen.push({
      at: performance.now(),
      text: turn.querySelector(".answer").textContent,
      runs: turn.classList.contains("running"),
      masks: document.querySelectorAll("#frame .layer").length,
    });
  };
  new MutationObserver(note).observe(document.querySelector("main"), {
    subtree: true, childList: true, characterData: true, attributes: true,
  });
}
"""

_FOCUSED = """
() => {
  const one = document.activeElement;
  if (one === document.body) return "";
  return (one.ariaLabel ?? one.labels?.[0]?.textContent ?? one.textContent).trim();
}
"""


@dataclass
class Seen:
    """The page at one moment of an answer."""

    at: float
    """Milliseconds."""
    text: str
    runs: bool
    masks: int


@dataclass
class Visit:
    """A page that is used, and all that is to be said of it."""

    page: Page
    address: str
    urls: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """Errors of scripts, and whatever the console was told: broken policies too."""
    dialogs: list[str] = field(default_factory=list)

    def choose_bundled(self, title: str = "A meadow at night") -> None:
        self.page.get_by_role("button", name=title).click()
        self.page.locator("#frame img").wait_for()

    def ask(self, question: str = "What is in the picture?") -> Locator:
        """Asks, waits for the end, and gives the turn."""
        before = self.turns.count()
        self.page.get_by_label("Question", exact=True).fill(question)
        self.page.keyboard.press("Enter")
        return self.finished(before)

    def view(self, name: str) -> None:
        self.page.get_by_role("radio", name=name).check()

    def finished(self, number: int) -> Locator:
        """The turn of that number, when it is done."""
        turn = self.turns.nth(number)
        turn.wait_for()
        self.page.locator(f"#log li:nth-child({number + 1}):not(.running)").wait_for()
        return turn

    @property
    def turns(self) -> Locator:
        return self.page.locator("#log > li")

    def note_changes(self) -> None:
        self.page.evaluate(_NOTE_CHANGES)

    def changes(self) -> list[Seen]:
        return [Seen(**one) for one in self.page.evaluate("seen")]

    def focused(self) -> str:
        """The name of what has the focus, as it is read out."""
        name = self.page.evaluate(_FOCUSED)
        assert isinstance(name, str)
        return name

    def press_until(self, key: str, name: str) -> None:
        """Presses a key until what has a name of this pattern has the focus."""
        for _ in range(40):
            if re.fullmatch(name, self.focused()):
                return
            self.page.keyboard.press(key)
        raise AssertionError(f"{key} does not lead to {name!r}, but to {self.focused()!r}")

    def downloaded(self, button: str) -> tuple[str, bytes]:
        """Name and content of the file that a button gives."""
        with self.page.expect_download() as waited:
            self.page.get_by_role("button", name=button).click()
        done: Download = waited.value
        return done.suggested_filename, Path(done.path()).read_bytes()


def find_chromium() -> str:
    """The system's browser; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(f"no Chromium is installed ({', '.join(_NAMES)})")
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    path = find_chromium()
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@contextmanager
def visiting(
    browser: Browser,
    address: str,
    width: int = 1280,
    height: int = 800,
    expected: tuple[str, ...] = (),
) -> Iterator[Visit]:
    """A new visit; at its end nothing was asked of any other machine, and nothing was amiss.

    ``expected``: what the console may say, such as the status of a refusal.
    """
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    page.set_default_timeout(20_000)
    visit = Visit(page, address)

    def asked(request: Request) -> None:
        visit.urls.append(request.url)

    page.on("request", asked)
    page.on("console", lambda message: visit.complaints.append(message.text))
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))

    def opened(dialog: Dialog) -> None:
        visit.dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", opened)
    page.goto(address)
    page.get_by_role("button", name="A meadow at night").wait_for()
    yield visit
    own = urlsplit(address).netloc
    for url in visit.urls:
        parts = urlsplit(url)
        assert parts.scheme in ("data", "blob") or parts.netloc == own, url
    left = [text for text in visit.complaints if not any(allowed in text for allowed in expected)]
    assert not left, left
    assert visit.dialogs == []
    context.close()


def place_in(visit: Visit, mask: NDArray[np.bool_]) -> dict[str, float]:
    """A pixel of the mask as a position on the picture, away from its edge and its badge."""
    ys, xs = np.nonzero(mask)
    inner = [
        (int(x), int(y))
        for x, y in zip(xs, ys, strict=True)
        if mask[y - 6 : y + 7, x - 6 : x + 7].all()
    ]
    x, y = inner[0]
    box = visit.page.locator("#frame .masked").bounding_box()
    assert box is not None
    height, width = mask.shape
    return {"x": (x + 0.5) * box["width"] / width, "y": (y + 0.5) * box["height"] / height}


def text_of(locator: Locator) -> str:
    return locator.text_content() or ""


def pixels(url: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as opened:
        return np.asarray(opened)
