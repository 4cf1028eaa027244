"""A stream that is closed or fails stops at once and leaves no thread, hook or lock."""

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_grounding
import torch
from test_stream import QUESTIONS, picture
from tiny_grounding import tiny_head

from flmm.grounding.grounder import Grounder
from flmm.grounding.streaming import AnswerEvent, StreamEvent, TextEvent
from flmm.lmm.base import LMMAdapter
from flmm.lmm.detokenizer import Detokenizer
from flmm.lmm.families.llava import LlavaAdapter


@pytest.fixture
def grounder() -> Grounder:
    return Grounder(LlavaAdapter.build_tiny(), tiny_head())


def count_hooks(adapter: LMMAdapter) -> int:
    return sum(len(module._forward_hooks) for module in adapter.model.modules())


class TokenCounter:
    """Counts the tokens that are generated, and calls ``on_token`` with each number."""

    def __init__(self, on_token: Callable[[int], None]) -> None:
        self.tokens = 0
        self._on_token = on_token

    def count(self) -> None:
        self.tokens += 1
        self._on_token(self.tokens)


CountTokens = Callable[[Callable[[int], None]], TokenCounter]


@pytest.fixture
def count_tokens(monkeypatch: pytest.MonkeyPatch) -> CountTokens:
    def start(on_token: Callable[[int], None]) -> TokenCounter:
        counter = TokenCounter(on_token)
        add = Detokenizer.add

        def add_and_count(detokenizer: Detokenizer, token_id: int) -> None:
            counter.count()
            add(detokenizer, token_id)

        monkeypatch.setattr(Detokenizer, "add", add_and_count)
        return counter

    return start


@pytest.fixture(autouse=True)
def check_nothing_is_left(grounder: Grounder) -> Iterator[None]:
    """No thread, hook or setting of a stream outlives it, and the LMM's lock is free."""
    adapter = grounder.adapter
    # transformers registers its own hooks on a model when it first runs.
    adapter.generate(adapter.build_prompt(picture(), "Why?"), 1)
    before = count_hooks(adapter)
    yield
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("flmm") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)
    assert count_hooks(adapter) == before
    assert adapter.text_model.config._attn_implementation == "sdpa"
    free: list[bool] = []
    other = threading.Thread(
        target=lambda: free.append(adapter.recording_lock.acquire(blocking=False))
    )
    other.start()
    other.join()
    assert free == [True]


def test_events_are_read_during_generation(grounder: Grounder, count_tokens: CountTokens) -> None:
    first_read = threading.Event()

    def wait(token: int) -> None:
        # Fails if the whole answer is generated before the first event is read.
        assert token < 8 or first_read.wait(20)

    count_tokens(wait)
    events = grounder.stream(picture(), QUESTIONS[0], max_new_tokens=30)
    assert isinstance(next(events), TextEvent)
    first_read.set()
    assert isinstance(list(events)[-1], AnswerEvent)


def close(events: Iterator[StreamEvent]) -> None:
    events.close()  # type: ignore[attr-defined]


def interrupt(events: Iterator[StreamEvent]) -> None:
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt)  # type: ignore[attr-defined]


def drop(events: Iterator[StreamEvent]) -> None:
    """Does nothing: the caller deletes its reference."""


@pytest.mark.parametrize("stop", [close, interrupt, drop])
def test_closed_stream_stops_the_lmm(
    grounder: Grounder, count_tokens: CountTokens, stop: Callable[[Iterator[StreamEvent]], None]
) -> None:
    counter = count_tokens(lambda _: time.sleep(0.01))
    events = grounder.stream(picture(), QUESTIONS[0], max_new_tokens=1000)
    for _ in range(3):
        next(events)
    before = counter.tokens
    stop(events)
    del events
    gc.collect()
    after = counter.tokens
    assert after <= before + 1
    time.sleep(0.1)
    assert counter.tokens == after
    # The LMM answers the next request.
    assert grounder.chat(picture(), QUESTIONS[0], max_new_tokens=5).text


def test_unread_stream_starts_no_thread(grounder: Grounder) -> None:
    events = grounder.stream(picture(), QUESTIONS[0])
    assert not any(thread.name.startswith("flmm") for thread in threading.enumerate())
    events.close()
    assert list(events) == []


def test_errors_are_raised_in_the_reader(
    grounder: Grounder, count_tokens: CountTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(token: int) -> None:
        if token == 5:
            raise RuntimeError("a bug while generating")

    count_tokens(fail)
    events = grounder.stream(picture(), QUESTIONS[0], max_new_tokens=30)
    received: list[StreamEvent] = []
    with pytest.raises(RuntimeError, match="a bug while generating"):
        received.extend(events)
    assert any(isinstance(event, TextEvent) for event in received)
    assert list(events) == []
    monkeypatch.undo()

    def fail_decoder(*_: object) -> torch.Tensor:
        raise RuntimeError("a bug while grounding")

    assert grounder.head is not None
    monkeypatch.setattr(grounder.head.mask_decoder, "forward", fail_decoder)
    with pytest.raises(RuntimeError, match="a bug while grounding"):
        list(grounder.stream(picture(), QUESTIONS[0], max_new_tokens=30))


def test_program_that_fails_while_it_reads_exits() -> None:
    sources = (__file__, tiny_grounding.__file__)
    code = (
        f"import sys; sys.path[:0] = {[str(Path(file).parent) for file in sources]}\n"
        "import time\n"
        "from test_stream import picture\n"
        "from tiny_grounding import tiny_head\n"
        "from flmm.grounding.grounder import Grounder\n"
        "from flmm.lmm.detokenizer import Detokenizer\n"
        "from flmm.lmm.families.llava import LlavaAdapter\n"
        "adapter = LlavaAdapter.build_tiny()\n"
        "add = Detokenizer.add\n"
        "Detokenizer.add = lambda self, token: (time.sleep(0.05), add(self, token))[1]\n"
        "for event in Grounder(adapter, tiny_head()).stream(picture(), 'Why?',"
        " max_new_tokens=1500):\n"
        "    raise KeyboardInterrupt('enough')\n"
    )
    begin = time.monotonic()
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert "KeyboardInterrupt: enough" in completed.stderr
    assert time.monotonic() - begin < 60
