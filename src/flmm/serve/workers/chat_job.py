"""Jobs that answer a question about pictures and ground phrases as soon as they are complete."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from PIL import Image
from torch import Tensor

from flmm.answers.phrase import Phrase
from flmm.attention.canonical_text import compose
from flmm.attention.generation_step import GenerationStep
from flmm.attention.spans import compute_token_offsets, find_mention
from flmm.attention.trace import Trace, TracedPhrase
from flmm.errors import InputError
from flmm.grounding.phrase_extraction import StreamingPhraseExtractor
from flmm.grounding.phrase_pictures import split_by_picture
from flmm.grounding.several_pictures import choose_pictures, read_with_each_picture
from flmm.serve.workers.answer_job import AnswerJob
from flmm.serve.workers.chat_inputs import ChatInputs, PhraseRequest
from flmm.serve.workers.events import (
    AnswerFinished,
    EventCallback,
    FinishReason,
    LocatedPhrase,
    PhraseFound,
    TextDelta,
)
from flmm.serve.workers.job import Slot, WorkerContext
from flmm.serve.workers.mask_batcher import MaskTask
from flmm.serve.workers.stop_strings import find_stop_string, partial_stop_length
from flmm.stopwatch import Stopwatch
from flmm.types import PhraseSpan


class ChatJob(AnswerJob):
    """One question, whose answer is generated together with others."""

    def __init__(
        self,
        inputs: ChatInputs,
        context: WorkerContext,
        slot: Slot,
        on_event: EventCallback,
        stopwatch: Stopwatch,
    ) -> None:
        super().__init__(slot, on_event, stopwatch)
        self.num_tokens = inputs.prompt.length + inputs.max_new_tokens
        self.prompt = inputs.prompt
        self.max_new_tokens = inputs.max_new_tokens
        self.sampling_params = inputs.sampling_params
        self._phrase_request = inputs.phrase_request if inputs.pictures else None
        self.wants_trace = self._phrase_request is not None
        self._inputs = inputs
        self._context = context
        self._streaming_extractor = None
        self._reads_each_picture = False
        """Whether a phrase's picture is chosen by its scores with each of them alone."""
        if self._phrase_request is not None:
            predictor = context.pipeline.mask_predictor
            self._reads_each_picture = (
                len(inputs.pictures) > 1
                and predictor.has_calibrated_scores
                and self._phrase_request.method != "kmeans"
            )
            # A mask that was sent cannot be taken back, so it must not depend on the later text.
            is_final = not predictor.uses_whole_text and not self._reads_each_picture
            if inputs.stream and is_final:
                self._streaming_extractor = StreamingPhraseExtractor(self._phrase_request.extractor)
        self._text = ""
        self._token_times: list[float] = []
        """When each token was generated."""
        self._streamed_spans: list[PhraseSpan] = []
        self._located_phrases: dict[PhraseSpan, LocatedPhrase] = {}

    def on_step(self, step: GenerationStep) -> bool:
        """Handle a generated token; return whether generation goes on."""
        goes_on = False

        def handle_step() -> None:
            nonlocal goes_on
            goes_on = self._handle_step(step)

        self.run_guarded(handle_step, self._context.metrics)
        return goes_on

    def _handle_step(self, step: GenerationStep) -> bool:
        now = time.perf_counter()
        metrics = self._context.metrics
        if not self._token_times:
            metrics.first_token_seconds.observe(now - self.slot.admitted_at)
        elif (
            len(self._token_times) == 1
            and self._phrase_request is not None
            and self._phrase_request.mask_options.refine
        ):
            # Not at the first token, so that this is sent before anything else starts.
            self._embed_picture()
        metrics.answer_tokens.inc()
        self._token_times.append(now)
        stop_strings = self._inputs.stop_strings
        text = step.text
        stop = find_stop_string(text, stop_strings)
        end = len(text) - partial_stop_length(text, stop_strings) if stop is None else stop
        self._emit_text(text[:end])
        if self._streaming_extractor is not None:
            self._ground_streamed(self._streaming_extractor.update(step, self._text), step)
        return stop is None

    def _emit_text(self, text: str) -> None:
        assert text.startswith(self._text), "the answer's text was taken back"
        if text != self._text:
            self.emit(TextDelta(text[len(self._text) :]))
            self._text = text

    def _ground_streamed(self, spans: Sequence[PhraseSpan], step: GenerationStep) -> None:
        assert self._phrase_request is not None
        new_spans = spans[: self._phrase_request.max_phrases - len(self._streamed_spans)]
        if not new_spans:
            return
        self._streamed_spans.extend(new_spans)
        self._request_masks(split_by_picture(new_spans, step.trace()))
        if self.is_only_job:
            # A mask takes as long as several tokens, and longer while these are generated: to go on
            # at once gains nothing, since the answer is complete only with its last mask.
            self._context.mask_batcher.wait_until_empty()

    def on_end(self, token_ids: Tensor, trace: Trace | None) -> None:
        """Ground the remaining phrases, and finish the job."""
        self.run_guarded(lambda: self._handle_end(token_ids, trace), self._context.metrics)

    def _handle_end(self, token_ids: Tensor, trace: Trace | None) -> None:
        self.stopwatch.timings["generate"] = time.perf_counter() - self.started_at
        adapter = self._context.pipeline.adapter
        full_text = adapter.decode(token_ids)
        stop = find_stop_string(full_text, self._inputs.stop_strings)
        text = full_text[:stop]
        self._emit_text(text)
        is_cut = stop is None and len(token_ids) >= self.max_new_tokens
        spans: list[PhraseSpan] = []
        if trace is not None and self._phrase_request is not None:
            with self.stopwatch.stage("phrases"):
                spans = self._extract_spans(trace, text, self._phrase_request)

        def finish(_: Sequence[Phrase] = ()) -> None:
            kept = self._located_phrases
            located = tuple(kept[span] for span in spans if span in kept)
            reason: FinishReason = "length" if is_cut else "stop"
            event = AnswerFinished(text, located, reason, len(token_ids), self.stopwatch.timings)
            self.finish(event, self._context.metrics)

        if trace is None or not spans:
            finish()
            return
        if self._reads_each_picture:
            self.work_after_answer = partial(self._read_with_picture, 0, text, spans, {}, finish)
            return
        remaining = split_by_picture(
            [span for span in spans if span not in self._streamed_spans], trace
        )

        def request_masks(by_picture: Mapping[int, Sequence[TracedPhrase]]) -> None:
            self._request_masks(by_picture)
            # Runs after all earlier tasks, since tasks are done in order.
            self._put_mask_task(self._inputs.pictures[0], (), finish, refine=False)

        if self._needs_references(remaining):
            self.work_after_answer = lambda: request_masks(self._add_references(remaining))
        else:
            request_masks(remaining)

    def _read_with_picture(
        self,
        index: int,
        text: str,
        spans: Sequence[PhraseSpan],
        found: dict[int, Sequence[Phrase]],
        finish: Callable[[], None],
    ) -> None:
        """Find the phrases in a picture, then in the later ones, then choose and finish.

        It leaves the next picture as work after the answer, so that other answers go on between.
        """
        pipeline, pictures = self._context.pipeline, self._inputs.pictures
        with self.stopwatch.stage("read"):
            (traced_phrases,) = read_with_each_picture(
                pipeline.adapter, [pictures[index]], self.prompt.question, text, spans
            )
            traced_phrases = pipeline.mask_predictor.add_references(pictures[index], traced_phrases)
        self._put_mask_task(pictures[index], traced_phrases, partial(found.__setitem__, index))
        if index + 1 < len(pictures):
            read_next = partial(self._read_with_picture, index + 1, text, spans, found, finish)
            self.work_after_answer = read_next
            return

        def choose(_: Sequence[Phrase]) -> None:
            for phrase in choose_pictures(spans, found):
                span = PhraseSpan(phrase.text, phrase.start, phrase.end, phrase.tokens)
                self._handle_masks(phrase.picture, [span], [phrase])
            finish()

        self._put_mask_task(pictures[index], (), choose, refine=False)

    def _needs_references(self, by_picture: Mapping[int, Sequence[TracedPhrase]]) -> bool:
        assert self._phrase_request is not None
        predictor = self._context.pipeline.mask_predictor
        return self._phrase_request.method != "kmeans" and any(
            predictor.needs_references(traced_phrases) for traced_phrases in by_picture.values()
        )

    def _add_references(
        self, by_picture: Mapping[int, Sequence[TracedPhrase]]
    ) -> dict[int, Sequence[TracedPhrase]]:
        predictor = self._context.pipeline.mask_predictor
        return {
            index: predictor.add_references(self._inputs.pictures[index], traced_phrases)
            for index, traced_phrases in by_picture.items()
        }

    def _extract_spans(
        self, trace: Trace, text: str, phrase_request: PhraseRequest
    ) -> list[PhraseSpan]:
        """Return the answer's phrases, including those that are already streamed."""
        offsets = compute_token_offsets(phrase_request.extractor.tokenizer, trace.token_ids, text)
        extractor = phrase_request.extractor
        if extractor.phrases is not None:
            extractor = replace(extractor, phrases=_select_mentioned(text, extractor.phrases))
        others = [
            span
            for span in extractor.extract(trace, text, offsets)
            if span not in self._streamed_spans
        ]
        spans = [
            *self._streamed_spans,
            *others[: phrase_request.max_phrases - len(self._streamed_spans)],
        ]
        return sorted(spans, key=lambda span: (span.start, span.end))

    def _embed_picture(self) -> None:
        pictures = self._inputs.pictures
        # By attention, which of several pictures a phrase is in is known only with the phrase.
        if len(pictures) == 1 or self._reads_each_picture:
            for picture in pictures:
                self._put_mask_task(picture, (), lambda _: None)

    def _request_masks(self, by_picture: Mapping[int, Sequence[TracedPhrase]]) -> None:
        for index, traced_phrases in by_picture.items():
            self._put_mask_task(
                self._inputs.pictures[index],
                traced_phrases,
                partial(self._handle_masks, index, [span for span, _ in traced_phrases]),
            )

    def _put_mask_task(
        self,
        picture: Image.Image,
        traced_phrases: Sequence[TracedPhrase],
        on_masks: Callable[[Sequence[Phrase]], None],
        refine: bool = True,
    ) -> None:
        request = self._phrase_request
        assert request is not None
        options = replace(request.mask_options, refine=refine and request.mask_options.refine)
        task = MaskTask(self, picture, traced_phrases, options, request.method, on_masks)
        self._context.mask_batcher.put(task)

    def _handle_masks(
        self, picture_index: int, spans: Sequence[PhraseSpan], phrases: Sequence[Phrase]
    ) -> None:
        metrics, request = self._context.metrics, self._phrase_request
        assert request is not None
        for span, phrase in zip(spans, phrases, strict=True):
            metrics.phrases.inc()
            if not request.mask_options.keeps(phrase.score):
                continue
            self._located_phrases[span] = LocatedPhrase(phrase, picture_index)
            if self._inputs.stream:
                seconds = time.perf_counter() - self._token_times[span.tokens[-1]]
                metrics.mask_seconds.observe(seconds)
                self.emit(PhraseFound(self._located_phrases[span]))


def _select_mentioned(text: str, phrases: Sequence[str]) -> list[str]:
    """Return the phrases that the text contains, each at most as often as it contains it."""
    counts: Counter[str] = Counter()
    mentioned = []
    for phrase in phrases:
        try:
            find_mention(text, phrase, counts[compose(phrase)])
        except InputError:
            continue
        counts[compose(phrase)] += 1
        mentioned.append(phrase)
    return mentioned
