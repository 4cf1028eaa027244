"""A real Chromium, whose requests, console messages and page states are recorded."""

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

# Records the state of the answer and its masks at each change of the page.
_RECORD_CHANGES = """
() => {
  window.states = [];
  const record = () => {
    const turn = document.querySelector("#log li:last-child");
    if (!turn) return;
    states.push({
      at: performance.now(),
      text: turn.querySelector(".answer").textContent,
      runs: turn.classList.contains("running"),
      masks: document.querySelectorAll("#frame .layer").length,
    });
  };
  new MutationObserver(record).observe(document.querySelector("main"), {
    subtree: true, childList: true, characterData: true, attributes: true,
  });
}
"""

_FOCUSED = """
() => {
  const element = document.activeElement;
  if (element === document.body) return "";
  return (element.ariaLabel ?? element.labels?.[0]?.textContent ?? element.textContent).trim();
}
"""


@dataclass
class PageState:
    """The page at one change during an answer."""

    at: float
    """Milliseconds."""
    text: str
    runs: bool
    masks: int


@dataclass
class Visit:
    """An open page, with its requests, errors and dialogs."""

    page: Page
    address: str
    urls: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Errors of scripts, and all console messages, such as of broken policies."""
    dialogs: list[str] = field(default_factory=list)

    def choose_bundled(self, title: str = "A meadow at night") -> None:
        self.page.get_by_role("button", name=title).click()
        self.page.locator("#frame img").wait_for()

    def choose_file(self, name: str, kind: str, content: bytes) -> None:
        file = {"name": name, "mimeType": kind, "buffer": content}
        self.page.locator("#file").set_input_files(file)  # type: ignore[arg-type]

    def status(self) -> str:
        """Wait for what the page says above the input, and return it."""
        line = self.page.locator("#status:not(:empty)")
        line.wait_for()
        return line.text_content() or ""

    def ask(self, question: str = "What is in the picture?") -> Locator:
        """Ask a question and wait for the answer; return its turn."""
        before = self.turns.count()
        self.page.get_by_label("Question", exact=True).fill(question)
        self.page.keyboard.press("Enter")
        return self.wait_for_turn(before)

    def choose_view(self, name: str) -> None:
        self.page.get_by_role("radio", name=name).check()

    def wait_for_turn(self, number: int) -> Locator:
        """Wait until the turn of that number is complete, and return it."""
        turn = self.turns.nth(number)
        turn.wait_for()
        self.page.locator(f"#log li:nth-child({number + 1}):not(.running)").wait_for()
        return turn

    @property
    def turns(self) -> Locator:
        return self.page.locator("#log > li")

    def record_changes(self) -> None:
        self.page.evaluate(_RECORD_CHANGES)

    def changes(self) -> list[PageState]:
        return [PageState(**state) for state in self.page.evaluate("states")]

    def focused(self) -> str:
        """Return the accessible name of the focused element."""
        name = self.page.evaluate(_FOCUSED)
        assert isinstance(name, str)
        return name

    def press_until(self, key: str, name: str) -> None:
        """Press a key until an element whose name matches the pattern has the focus."""
        for _ in range(40):
            if re.fullmatch(name, self.focused()):
                return
            self.page.keyboard.press(key)
        raise AssertionError(f"{key} does not lead to {name!r}, but to {self.focused()!r}")

    def download(self, button: str) -> tuple[str, bytes]:
        """Return name and content of the file that a button downloads."""
        with self.page.expect_download() as waited:
            self.page.get_by_role("button", name=button).click()
        download: Download = waited.value
        return download.suggested_filename, Path(download.path()).read_bytes()


def find_chromium() -> str:
    """Return the path of the system's browser; skip the test where there is none."""
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip(f"no Chromium is installed ({', '.join(_NAMES)})")
    return path


@contextmanager
def launch_chromium() -> Iterator[Browser]:
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
    language: str = "en-GB",
    first_button: str = "A meadow at night",
    has_touch: bool = False,
) -> Iterator[Visit]:
    """Open the page; at the end check that it asked no other host and had no errors.

    ``expected``: parts of console messages that are allowed, such as the status of a refusal.
    ``first_button``: of the page in that language. ``has_touch``: as on a phone.
    """
    context = browser.new_context(
        viewport={"width": width, "height": height},
        locale=language,
        has_touch=has_touch,
        is_mobile=has_touch,
    )
    page = context.new_page()
    page.set_default_timeout(20_000)
    visit = Visit(page, address)

    def on_request(request: Request) -> None:
        visit.urls.append(request.url)

    page.on("request", on_request)
    page.on("console", lambda message: visit.errors.append(message.text))
    page.on("pageerror", lambda error: visit.errors.append(str(error)))

    def on_dialog(dialog: Dialog) -> None:
        visit.dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", on_dialog)
    page.goto(address)
    page.get_by_role("button", name=first_button).wait_for()
    yield visit
    host = urlsplit(address).netloc
    for url in visit.urls:
        parts = urlsplit(url)
        assert parts.scheme in ("data", "blob") or parts.netloc == host, url
    unexpected = [text for text in visit.errors if not any(part in text for part in expected)]
    assert not unexpected, unexpected
    assert visit.dialogs == []
    context.close()


def position_in_mask(visit: Visit, mask: NDArray[np.bool_]) -> dict[str, float]:
    """Return a position on the shown picture inside the mask, away from its edge and badge."""
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


def decode_png(url: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as opened:
        return np.asarray(opened)
