"""``Grounder.stream``: chat's answer, with its events in order."""

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_grounding import tiny_head

from flmm.answers.answer import Answer
from flmm.answers.phrase import Phrase
from flmm.errors import InputError
from flmm.grounding.grounder import Grounder
from flmm.grounding.streaming import AnswerEvent, PhraseEvent, StreamEvent, TextEvent
from flmm.lmm.families.llava import LlavaAdapter

QUESTIONS = ["What is in the picture?", "Why?", "the cat", "dog and cat?"]
DEMO = Path(__file__).parents[3] / "src" / "flmm" / "assets" / "pictures" / "demo.png"


def picture(width: int = 60, height: int = 40) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture
def grounder() -> Grounder:
    return Grounder(LlavaAdapter.build_tiny(), tiny_head(), model="tiny-head")


@pytest.fixture(scope="module")
def embedded() -> Grounder:
    return Grounder.from_pretrained()


def text_of(events: list[StreamEvent]) -> str:
    text = ""
    for event in events:
        if isinstance(event, TextEvent):
            assert 0 <= event.start <= len(text)
            text = text[: event.start] + event.text
    return text


def phrases_of(events: list[StreamEvent]) -> list[Phrase]:
    return [event.phrase for event in events if isinstance(event, PhraseEvent)]


def spans(phrases: list[Phrase] | tuple[Phrase, ...]) -> list[tuple[int, int, tuple[int, ...]]]:
    return [(phrase.start, phrase.end, phrase.tokens) for phrase in phrases]


def answer_of(events: list[StreamEvent]) -> Answer:
    """The last event's answer, after a check of the events' order."""
    assert isinstance(events[-1], AnswerEvent)
    assert not any(isinstance(event, AnswerEvent) for event in events[:-1])
    for index, event in enumerate(events):
        if isinstance(event, PhraseEvent):
            assert text_of(events[:index])[: event.phrase.end].endswith(event.phrase.text)
    return events[-1].answer


def is_same(answer: Answer, other: Answer) -> bool:
    """Bit for bit, except the timings."""
    pairs = list(zip(answer.phrases, other.phrases, strict=True))
    return (
        (answer.text, answer.model, answer.lmm) == (other.text, other.model, other.lmm)
        and spans(answer.phrases) == spans(other.phrases)
        and all((one.score, one.box) == (two.score, two.box) for one, two in pairs)
        and all(np.array_equal(one.mask, two.mask) for one, two in pairs)
    )


@pytest.mark.parametrize("refine", [True, False])
@pytest.mark.parametrize("question", QUESTIONS)
def test_answer_equals_that_of_chat(grounder: Grounder, question: str, refine: bool) -> None:
    # Random bytes and broken characters: harder than what a trained LMM generates.
    expected = grounder.chat(picture(), question, max_new_tokens=40, refine=refine)
    events = list(grounder.stream(picture(), question, max_new_tokens=40, refine=refine))
    answer = answer_of(events)
    assert is_same(answer, expected)
    assert text_of(events) == expected.text
    assert spans(phrases_of(events)) == spans(expected.phrases)
    assert len(expected.phrases) > 1
    assert set(answer.timings) == set(expected.timings)
    for early, final in zip(phrases_of(events), answer.phrases, strict=True):
        assert (early.mask != final.mask).mean() < 0.001


@pytest.mark.parametrize("limit", [1, 2, 7, 20])
def test_answer_cut_at_max_new_tokens(grounder: Grounder, limit: int) -> None:
    expected = grounder.chat(picture(), QUESTIONS[0], max_new_tokens=limit)
    events = list(grounder.stream(picture(), QUESTIONS[0], max_new_tokens=limit))
    assert is_same(answer_of(events), expected)
    assert text_of(events) == expected.text


def test_order_of_given_phrases_and_noun_chunks(embedded: Grounder) -> None:
    question = "What is in the picture?"
    listed = ["grass", "dog", "is", "is", "pine"]
    expected = embedded.chat(DEMO, question, listed)
    events = list(embedded.stream(DEMO, question, listed))
    assert is_same(answer_of(events), expected)
    # In the order of the text; a part of a word waits for the end.
    in_text_order = sorted(expected.phrases[:-1], key=lambda phrase: phrase.end)
    assert spans(phrases_of(events)) == spans([*in_text_order, expected.phrases[-1]])
    chunks = list(embedded.stream(DEMO, question, phrase_source="noun_chunks"))
    assert is_same(answer_of(chunks), embedded.chat(DEMO, question, phrase_source="noun_chunks"))
    first = next(index for index, event in enumerate(chunks) if isinstance(event, PhraseEvent))
    assert text_of(chunks[:first]) == expected.text
    with pytest.raises(InputError, match="'a zeppelin' is not in the text"):
        list(embedded.stream(DEMO, question, ["a zeppelin"]))


def test_masks_are_streamed_during_generation(embedded: Grounder) -> None:
    """Prints the delay from phrase to mask; the limit allows for machines under load."""
    question = "What is in the picture?"
    expected = embedded.chat(DEMO, question)
    text_times: list[tuple[int, float]] = []
    delays: list[float] = []
    texts_after_first_mask = 0
    for event in embedded.stream(DEMO, question):
        now = time.perf_counter()
        if isinstance(event, TextEvent):
            text_times.append((event.start + len(event.text), now))
            texts_after_first_mask += bool(delays)
        elif isinstance(event, PhraseEvent):
            end = event.phrase.end
            delays.append(now - next(moment for length, moment in text_times if length >= end))
        else:
            assert is_same(event.answer, expected)
    milliseconds = ", ".join(f"{1000 * delay:.0f}" for delay in delays)
    print(f"from a phrase's last letter to its mask: {milliseconds} ms")
    assert len(delays) == len(expected.phrases) >= 4
    assert texts_after_first_mask > 5
    assert max(delays) < 1


@pytest.mark.parametrize(
    ("question", "phrases", "message"),
    [("", None, "question is empty"), ("Why?", [], "list of phrases is empty")],
)
def test_bad_arguments_are_refused_at_the_call(
    grounder: Grounder, question: str, phrases: list[str] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        grounder.stream(picture(), question, phrases)
    with pytest.raises(InputError, match="give at least 1"):
        grounder.stream(picture(), "Why?", max_new_tokens=0)


def test_open_streams_share_the_lmm(grounder: Grounder) -> None:
    expected = grounder.chat(picture(), QUESTIONS[0], max_new_tokens=20)
    streams = [grounder.stream(picture(), QUESTIONS[0], max_new_tokens=20) for _ in range(3)]
    first_events = [next(stream) for stream in streams]
    assert all(isinstance(event, TextEvent) for event in first_events)
    for stream in streams:
        last = list(stream)[-1]
        assert isinstance(last, AnswerEvent)
        assert is_same(last.answer, expected)
