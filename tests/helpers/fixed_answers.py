"""A server whose LMM always gives the same answer, for what a page shows of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import torch
from browsing import Visit, visiting
from playwright.sync_api import Browser
from tiny_grounding import tiny_head
from torch import Tensor, nn
from transformers.cache_utils import Cache

from flmm.grounding.grounder import Grounder
from flmm.lmm.families.llava import LlavaAdapter

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


def wait_until_free(address: str) -> None:
    while httpx.get(f"{address}/healthz").json()["served"]:
        time.sleep(0.01)


@contextmanager
def visiting_with_key(browser: Browser, address: str) -> Iterator[Visit]:
    """Open the page, and enter the API key."""
    wait_until_free(address)
    with visiting(browser, address, expected=(REFUSED,)) as visit:
        visit.page.get_by_label("API key").fill(KEY)
        visit.page.keyboard.press("Enter")
        visit.page.get_by_text("fixed-answer").wait_for()
        yield visit
