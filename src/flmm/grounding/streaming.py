"""An answer streamed during generation: text token by token, each mask once its phrase is complete.

Beside the reader's thread, one thread runs the LMM and another predicts masks, so that neither text
nor masks wait for each other.
"""

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import torch

from flmm.answers.answer import Answer
from flmm.answers.phrase import Phrase
from flmm.attention.generation_step import GenerationStep
from flmm.attention.trace import Trace, TracedPhrase
from flmm.grounding.phrase_extraction import StreamingPhraseExtractor
from flmm.grounding.pipeline import GenerationRequest, Pipeline
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.types import PhraseSpan


@dataclass(frozen=True)
class TextEvent:
    """The answer's next text: ``text = text[: event.start] + event.text``."""

    text: str
    """The new text."""
    start: int
    """In code points: the length of the answer so far."""


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

    @property
    def _has_several_pictures(self) -> bool:
        return len(self._request.pictures) > 1

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
        trace, text = self._pipeline.generate(self._request, self._on_token)
        self._emit_text(text)
        if self._has_several_pictures:
            answer = self._pipeline.ground_phrases(self._request, trace, text)
            for phrase in answer.phrases:
                self._event_queue.put(PhraseEvent(phrase))
            self._event_queue.put(AnswerEvent(answer))
            return
        with self._request.stopwatch.stage("phrases"):
            spans = self._request.phrase_extractor.extract(trace, text)
            traced_phrases = self._pipeline.mask_predictor.add_references(
                self._request.picture, [(span, trace) for span in spans]
            )
        self._submit(lambda: self._finish(text, traced_phrases))

    def _on_token(self, step: GenerationStep) -> None:
        self._check_reader()
        self._emit_text(step.text)
        if self._has_several_pictures:
            return  # which of them a phrase is about is known with the answer
        if step.num_recorded == 1:
            # Early, but not so early that the first word would wait for it.
            self._submit(self._embed_picture)
        for span in self._phrase_extractor.update(step, step.text):
            self._submit_phrase(span, step.trace())

    def _emit_text(self, text: str) -> None:
        assert text.startswith(self._text), "the answer's text was taken back"
        if text != self._text:
            self._event_queue.put(TextEvent(text[len(self._text) :], len(self._text)))
            self._text = text

    def _embed_picture(self) -> None:
        if self._request.mask_options.refine and self._image_embeddings is None:
            self._image_embeddings = self._pipeline.mask_predictor.embed_picture(
                self._request.picture, self._request.stopwatch
            )

    def _submit_phrase(self, span: PhraseSpan, trace: Trace) -> None:
        self._submit(lambda: self._emit_phrases(self._predict_phrases([(span, trace)])))

    def _emit_phrases(self, phrases: Mapping[PhraseSpan, Phrase]) -> None:
        """Send the phrases that are new and kept."""
        for span, phrase in phrases.items():
            if span not in self._phrases:
                self._phrases[span] = phrase
                if self._request.mask_options.keeps(phrase.score):
                    self._event_queue.put(PhraseEvent(phrase))

    def _predict_phrases(self, traced_phrases: Sequence[TracedPhrase]) -> dict[PhraseSpan, Phrase]:
        self._embed_picture()
        phrases = self._pipeline.mask_predictor.predict_with_embeddings(
            traced_phrases,
            self._image_embeddings,
            self._request.mask_options,
            self._request.stopwatch,
        )
        return {span: phrase for (span, _), phrase in zip(traced_phrases, phrases, strict=True)}

    def _finish(self, text: str, traced_phrases: Sequence[TracedPhrase]) -> None:
        final = self._predict_final_phrases(traced_phrases)
        self._emit_phrases(final)
        answer = self._pipeline.build_answer(
            self._request.pictures,
            text,
            tuple(final.values()),
            self._request.mask_options,
            self._request.stopwatch,
        )
        self._event_queue.put(AnswerEvent(answer))

    def _predict_final_phrases(
        self, traced_phrases: Sequence[TracedPhrase]
    ) -> Mapping[PhraseSpan, Phrase]:
        """Return all phrases with the answer's masks, which are predicted in one batch."""
        if self._phrases and not self._pipeline.mask_predictor.uses_whole_text:
            # Those sent before are good but for their last bits, so the others need not wait.
            missing = [phrase for phrase in traced_phrases if phrase[0] not in self._phrases]
            self._emit_phrases(self._predict_phrases(missing))
            self._check_reader()
            if len(traced_phrases) <= 1:
                return {span: self._phrases[span] for span, _ in traced_phrases}
        return self._predict_phrases(traced_phrases)
