"""A server whose LMM gives the same answer to every question."""

from collections.abc import Iterator
from typing import cast

import pytest
from fixed_answers import HOSTILE, KEY, FixedAnswerHead, build_grounder
from playwright.sync_api import Browser
from serving import run_server

from flmm.lmm.families.llava import LlavaAdapter
from flmm.serve.settings import Limits, ServerSettings


@pytest.fixture(scope="module")
def lm_head() -> FixedAnswerHead:
    tokenizer = LlavaAdapter.build_tiny().tokenizer
    token_ids = tokenizer(HOSTILE, add_special_tokens=False)["input_ids"]
    end_token_id = cast(int, tokenizer.eos_token_id)
    return FixedAnswerHead([*cast(list[int], token_ids), end_token_id], len(tokenizer))


@pytest.fixture(scope="module")
def address(browser: Browser, lm_head: FixedAnswerHead) -> Iterator[str]:
    del browser
    settings = ServerSettings(
        port=0, api_key=KEY, queue_capacity=1, limits=Limits(pixels=200_000, body_seconds=60)
    )
    with run_server(build_grounder(lm_head), settings) as address:
        yield address
