"""An answer while it is being said: its text token by token, each phrase's mask as it is complete.

Two threads work beside the one that reads: one speaks (it runs the LMM) and one grounds (it runs
the head), so that neither text nor masks wait for each other.
"""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import torch
from torch import Tensor

from flmm.answers.answer import Answer, Phrase
from flmm.attention.spans import common_length
from flmm.attention.trace import Trace
from flmm.attention.tracing import Step, trace_generation
from flmm.grounding.phrase_extraction import PhrasesSoFar
from flmm.grounding.pipeline import Asked, Pipeline
from flmm.types import PhraseSpan

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What the first bytes of a character decode to, until its last one is said."""


@dataclass(frozen=True)
class TextEvent:
    """The answer goes on: ``said = said[:event.start] + event.text``."""

    text: str
    """What is new."""
    start: int
    """Where it stands, in code points: the length of the answer so far. Less where a tokenizer
    takes back what it had decoded, which none should."""


@dataclass(frozen=True, eq=False)
class PhraseEvent:
    """A phrase is complete, and this is where it is."""

    phrase: Phrase


@dataclass(frozen=True, eq=False)
class AnswerEvent:
    """The answer is complete; always the last event."""

    answer: Answer


Event = TextEvent | PhraseEvent | AnswerEvent


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class _Stopped(Exception):  # noqa: N818 - it is no error
    """Nobody reads any more."""


class AnswerStream:
    """One answer, said while its events are read."""

    def __init__(self, pipeline: Pipeline, asked: Asked) -> None:
        self._pipeline = pipeline
        self._asked = asked
        self._so_far = PhrasesSoFar(asked.choice)
        self._said = ""
        self._found: dict[PhraseSpan, Phrase] = {}
        self._events: SimpleQueue[Event | _Failure] = SimpleQueue()
        self._closed = threading.Event()
        self._reader = threading.current_thread()
        self._embeddings: Tensor | None = None
        self._grounding = ThreadPoolExecutor(1, "flmm-grounding")

    def events(self) -> Generator[Event, None, None]:
        """Speaks and grounds from the first event on until the answer or the reader ends."""
        speaker = threading.Thread(target=self._guard, args=(self._speak,), name="flmm-speaking")
        self._reader = threading.current_thread()
        speaker.start()
        try:
            while True:
                event = self._events.get()
                if isinstance(event, _Failure):
                    raise event.error
                yield event
                if isinstance(event, AnswerEvent):
                    return
                self._reader = threading.current_thread()
        finally:
            self._closed.set()
            self._grounding.shutdown(wait=False, cancel_futures=True)
            # Garbage may be collected in any thread.
            if threading.current_thread() is not speaker:
                speaker.join()

    def _guard(self, work: Callable[[], None]) -> None:
        """Does a thread's work; its errors are the reader's."""
        try:
            self._check_reader()
            work()
        except _Stopped:
            pass
        except BaseException as error:
            self._events.put(_Failure(error))

    def _check_reader(self) -> None:
        # A program that ends waits for its threads, with a reader that will never read again.
        main = threading.main_thread()
        if self._closed.is_set() or (self._reader is main and not main.is_alive()):
            raise _Stopped

    def _ground_later(self, work: Callable[[], None]) -> None:
        self._grounding.submit(self._guard, work)

    @torch.no_grad()
    def _speak(self) -> None:
        with self._asked.watch.stage("generate"):
            trace, text = trace_generation(
                self._pipeline.adapter, self._asked.prompt, self._asked.max_new_tokens, self._hear
            )
        self._say_rest(text)
        with self._asked.watch.stage("phrases"):
            spans = self._asked.choice.spans(trace, text)
        self._ground_later(lambda: self._finish(trace, text, spans))

    def _hear(self, step: Step) -> None:
        """A token was said."""
        self._check_reader()
        text = step.text.rstrip(_UNFINISHED)
        if text != self._said and text.startswith(self._said):
            self._events.put(TextEvent(text[len(self._said) :], len(self._said)))
            self._said = text
        if step.known == 1:
            # Early, but not so early that the first word waits for it.
            self._ground_later(self._embed)
        for span in self._so_far.after(step, text):
            self._tell_later(span, step.trace())

    def _say_rest(self, text: str) -> None:
        if text != self._said:
            same = common_length(self._said, text)
            self._events.put(TextEvent(text[same:], same))

    def _embed(self) -> None:
        if self._asked.refine and self._embeddings is None:
            self._embeddings = self._pipeline.masks.embed(self._asked.picture, self._asked.watch)

    def _tell_later(self, span: PhraseSpan, trace: Trace) -> None:
        self._ground_later(lambda: self._tell([span], trace))

    def _tell(self, spans: list[PhraseSpan], trace: Trace) -> None:
        for span, phrase in zip(spans, self._ground(spans, trace), strict=True):
            self._found[span] = phrase
            self._events.put(PhraseEvent(phrase))

    def _ground(self, spans: list[PhraseSpan], trace: Trace) -> tuple[Phrase, ...]:
        self._embed()
        said = [(span, trace) for span in spans]
        return self._pipeline.masks.decode(said, self._embeddings, self._asked.watch)

    def _finish(self, trace: Trace, text: str, spans: list[PhraseSpan]) -> None:
        early = len(self._found)
        self._tell([span for span in spans if span not in self._found], trace)
        # Masks that were not made in one go differ in their last bits from ``Grounder.chat``'s.
        if early and len(spans) > 1:
            self._check_reader()
            phrases = self._ground(spans, trace)
        else:
            phrases = tuple(self._found[span] for span in spans)
        answer = self._pipeline.answer(self._asked.picture, text, phrases, self._asked.watch)
        self._events.put(AnswerEvent(answer))
