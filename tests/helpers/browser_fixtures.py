"""A real Chromium, the server of the embedded model, and a visit to its page."""

from collections.abc import Iterator

import pytest
from browsing import Visit, launch_chromium, visiting
from playwright.sync_api import Browser
from serving import run_server

from flmm.grounding.grounder import Grounder
from flmm.serve.settings import ServerSettings


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def embedded_address(browser: Browser) -> Iterator[str]:
    # After the browser, so that no model is loaded where the tests are skipped.
    del browser
    with run_server(Grounder.from_pretrained(), ServerSettings(port=0)) as address:
        yield address


@pytest.fixture
def visit(browser: Browser, embedded_address: str) -> Iterator[Visit]:
    with visiting(browser, embedded_address) as visit:
        yield visit
