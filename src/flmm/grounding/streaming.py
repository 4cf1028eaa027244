"""An answer streamed during generation: text token by token, each mask once its phrase is complete.

Beside the reader's thread, one thread runs the LMM and another predicts masks, so that neither text
nor masks wait for each other.
"""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import torch

from flmm.answers.answer import Answer, Phrase
from flmm.attention.spans import common_prefix_length
from flmm.attention.trace import Trace
from flmm.attention.tracing import GenerationStep, trace_generation
from flmm.grounding.phrase_extraction import StreamingPhraseExtractor
from flmm.grounding.pipeline import GenerationRequest, Pipeline
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.types import PhraseSpan

_INCOMPLETE_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""What the first bytes of a character decode to, until its last one is generated."""


@dataclass(frozen=True)
class TextEvent:
    """The answer's next text: ``text = text[: event.start] + event.text``."""

    text: str
    """The new text."""
    start: int
    """In code points: the length of the answer so far. Less where a tokenizer takes back what it
    had decoded, which none should."""


@dataclass(frozen=True, eq=False)
class PhraseEvent:
    """A phrase that is complete, with its mask."""

    phrase: Phrase


@dataclass(frozen=True, eq=False)
class AnswerEvent:
    """The complete answer; always the last event."""

    answer: Answer


StreamEvent = TextEvent | PhraseEvent | AnswerEvent


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class _StreamClosed(Exception):  # noqa: N818 - it is no error
    """The reader closed the stream or is gone."""


class AnswerStream:
    """The events of one answer, generated while they are read."""

    def __init__(self, pipeline: Pipeline, request: GenerationRequest) -> None:
        self._pipeline = pipeline
        self._request = request
        self._phrase_extractor = StreamingPhraseExtractor(request.phrase_extractor)
        self._text = ""
        self._phrases: dict[PhraseSpan, Phrase] = {}
        self._event_queue: SimpleQueue[StreamEvent | _Failure] = SimpleQueue()
        self._closed = threading.Event()
        self._reader_thread = threading.current_thread()
        self._image_embeddings: PictureEmbeddings | None = None
        self._mask_executor = ThreadPoolExecutor(1, "flmm-masks")

    def events(self) -> Generator[StreamEvent, None, None]:
        """Yield the events; generation starts with the first and stops when the reader closes."""
        generation = threading.Thread(
            target=self._run_guarded, args=(self._generate,), name="flmm-generation"
        )
        self._reader_thread = threading.current_thread()
        generation.start()
        try:
            while True:
                event = self._event_queue.get()
                if isinstance(event, _Failure):
                    raise event.error
                yield event
                if isinstance(event, AnswerEvent):
                    return
                self._reader_thread = threading.current_thread()
        finally:
            self._closed.set()
            self._mask_executor.shutdown(wait=False, cancel_futures=True)
            # The garbage collector may close the stream in any thread, also in that one.
            if threading.current_thread() is not generation:
                generation.join()

    def _run_guarded(self, work: Callable[[], None]) -> None:
        """Run a thread's work; its errors are raised in the reader's thread."""
        try:
            self._check_reader()
            work()
        except _StreamClosed:
            pass
        except BaseException as error:
            self._event_queue.put(_Failure(error))

    def _check_reader(self) -> None:
        # At exit Python waits for this thread, though the main thread reads no more.
        main = threading.main_thread()
        if self._closed.is_set() or (self._reader_thread is main and not main.is_alive()):
            raise _StreamClosed

    def _submit(self, work: Callable[[], None]) -> None:
        self._mask_executor.submit(self._run_guarded, work)

    @torch.no_grad()
    def _generate(self) -> None:
        with self._request.stopwatch.stage("generate"):
            trace, text = trace_generation(
                self._pipeline.adapter,
                self._request.prompt,
                self._request.max_new_tokens,
                self._on_token,
            )
        self._emit_remaining_text(text)
        with self._request.stopwatch.stage("phrases"):
            spans = self._request.phrase_extractor.extract(trace, text)
        self._submit(lambda: self._finish(trace, text, spans))

    def _on_token(self, step: GenerationStep) -> None:
        self._check_reader()
        text = step.text.rstrip(_INCOMPLETE_CHARACTER)
        if text != self._text and text.startswith(self._text):
            self._event_queue.put(TextEvent(text[len(self._text) :], len(self._text)))
            self._text = text
        if step.num_recorded == 1:
            # Early, but not so early that the first word would wait for it.
            self._submit(self._embed_picture)
        for span in self._phrase_extractor.update(step, text):
            self._submit_phrase(span, step.trace())

    def _emit_remaining_text(self, text: str) -> None:
        if text != self._text:
            same = common_prefix_length(self._text, text)
            self._event_queue.put(TextEvent(text[same:], same))

    def _embed_picture(self) -> None:
        if self._request.refine and self._image_embeddings is None:
            self._image_embeddings = self._pipeline.mask_predictor.embed_picture(
                self._request.picture, self._request.stopwatch
            )

    def _submit_phrase(self, span: PhraseSpan, trace: Trace) -> None:
        self._submit(lambda: self._emit_phrases([span], trace))

    def _emit_phrases(self, spans: list[PhraseSpan], trace: Trace) -> None:
        for span, phrase in zip(spans, self._predict_phrases(spans, trace), strict=True):
            self._phrases[span] = phrase
            self._event_queue.put(PhraseEvent(phrase))

    def _predict_phrases(self, spans: list[PhraseSpan], trace: Trace) -> tuple[Phrase, ...]:
        self._embed_picture()
        return self._pipeline.mask_predictor.predict_with_embeddings(
            [(span, trace) for span in spans], self._image_embeddings, self._request.stopwatch
        )

    def _finish(self, trace: Trace, text: str, spans: list[PhraseSpan]) -> None:
        num_early = len(self._phrases)
        self._emit_phrases([span for span in spans if span not in self._phrases], trace)
        # Masks that are not predicted in one batch may differ in their last bits from chat's; those
        # that depend on the whole text differ more.
        is_final = len(spans) <= 1 and not self._pipeline.mask_predictor.uses_whole_text
        if num_early and not is_final:
            self._check_reader()
            phrases = self._predict_phrases(spans, trace)
        else:
            phrases = tuple(self._phrases[span] for span in spans)
        answer = self._pipeline.build_answer(
            self._request.picture, text, phrases, self._request.stopwatch
        )
        self._event_queue.put(AnswerEvent(answer))
