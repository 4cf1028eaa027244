"""A stream whose reader leaves, or that fails, ends at once and leaves nothing behind."""

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
from flmm.lmm.families.llava import LlavaAdapter


@pytest.fixture
def grounder() -> Grounder:
    return Grounder(LlavaAdapter.build_tiny(), tiny_head())


def hooks(adapter: LMMAdapter) -> int:
    return sum(len(module._forward_hooks) for module in adapter.model.modules())


class Heard:
    """Stands in the place where each token of the answer is heard."""

    def __init__(self, adapter: LMMAdapter, at: Callable[[int], None]) -> None:
        self.tokens = 0
        self._decode = adapter.decode
        self._at = at

    def __call__(self, token_ids: torch.Tensor) -> str:
        self.tokens += 1
        self._at(self.tokens)
        return self._decode(token_ids)


@pytest.fixture
def hear(
    grounder: Grounder, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[int], None]], Heard]:
    def put(at: Callable[[int], None]) -> Heard:
        heard = Heard(grounder.adapter, at)
        monkeypatch.setattr(grounder.adapter, "decode", heard)
        return heard

    return put


@pytest.fixture(autouse=True)
def nothing_is_left(grounder: Grounder) -> Iterator[None]:
    """No thread, hook or setting of a stream outlives it, and the LMM is free."""
    adapter = grounder.adapter
    # transformers hangs its own hooks on a model when it first runs.
    adapter.generate(adapter.build_prompt(picture(), "Why?"), 1)
    before = hooks(adapter)
    yield
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("flmm") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)
    assert hooks(adapter) == before
    assert adapter.text_model.config._attn_implementation == "sdpa"
    free: list[bool] = []
    other = threading.Thread(target=lambda: free.append(adapter.lock.acquire(blocking=False)))
    other.start()
    other.join()
    assert free == [True]


Hear = Callable[[Callable[[int], None]], Heard]


def test_reading_and_speaking_go_on_together(grounder: Grounder, hear: Hear) -> None:
    first_read = threading.Event()

    def wait(token: int) -> None:
        # Were the answer said before it is read, nobody would ever come to read.
        assert token < 8 or first_read.wait(20)

    hear(wait)
    events = grounder.stream(picture(), QUESTIONS[0], max_new_tokens=30)
    assert isinstance(next(events), TextEvent)
    first_read.set()
    assert isinstance(list(events)[-1], AnswerEvent)


def close(events: Iterator[StreamEvent]) -> None:
    events.close()  # type: ignore[attr-defined]


def interrupt(events: Iterator[StreamEvent]) -> None:
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt)  # type: ignore[attr-defined]


def forget(events: Iterator[StreamEvent]) -> None:
    """Nothing to do: the caller lets go."""


@pytest.mark.parametrize("leave", [close, interrupt, forget])
def test_a_reader_who_leaves_stops_the_lmm(
    grounder: Grounder, hear: Hear, leave: Callable[[Iterator[StreamEvent]], None]
) -> None:
    heard = hear(lambda _: time.sleep(0.01))
    events = grounder.stream(picture(), QUESTIONS[0], max_new_tokens=1000)
    for _ in range(3):
        next(events)
    before = heard.tokens
    leave(events)
    del events
    gc.collect()
    after = heard.tokens
    assert after <= before + 1
    time.sleep(0.1)
    assert heard.tokens == after
    # Somebody else's turn, with the answer that it always gives.
    assert grounder.chat(picture(), QUESTIONS[0], max_new_tokens=5).text


def test_streams_that_nobody_reads_do_nothing(grounder: Grounder) -> None:
    events = grounder.stream(picture(), QUESTIONS[0])
    assert not any(thread.name.startswith("flmm") for thread in threading.enumerate())
    events.close()
    assert list(events) == []


def test_failures_reach_the_reader(
    grounder: Grounder, hear: Hear, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(token: int) -> None:
        if token == 5:
            raise RuntimeError("a bug while speaking")

    hear(fail)
    events = grounder.stream(picture(), QUESTIONS[0], max_new_tokens=30)
    heard: list[StreamEvent] = []
    with pytest.raises(RuntimeError, match="a bug while speaking"):
        heard.extend(events)
    assert any(isinstance(event, TextEvent) for event in heard)
    assert list(events) == []
    monkeypatch.undo()

    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("a bug while grounding")

    monkeypatch.setattr(grounder.head.mask_decoder, "forward", broken)
    with pytest.raises(RuntimeError, match="a bug while grounding"):
        list(grounder.stream(picture(), QUESTIONS[0], max_new_tokens=30))


def test_a_program_that_fails_while_it_reads_ends() -> None:
    sources = (__file__, tiny_grounding.__file__)
    code = (
        f"import sys; sys.path[:0] = {[str(Path(file).parent) for file in sources]}\n"
        "import time\n"
        "from test_stream import picture\n"
        "from tiny_grounding import tiny_head\n"
        "from flmm.grounding.grounder import Grounder\n"
        "from flmm.lmm.families.llava import LlavaAdapter\n"
        "adapter = LlavaAdapter.build_tiny()\n"
        "decode = adapter.decode\n"
        "adapter.decode = lambda ids: (time.sleep(0.05), decode(ids))[1]\n"
        "for event in Grounder(adapter, tiny_head()).stream(picture(), 'Why?',"
        " max_new_tokens=1500):\n"
        "    raise KeyboardInterrupt('enough')\n"
    )
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert "KeyboardInterrupt: enough" in done.stderr
    assert time.monotonic() - begin < 60
