"""A question about pictures: the model speaks, and phrases are grounded as they are complete."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

from PIL import Image
from torch import Tensor

from flmm.answers.answer import Phrase
from flmm.attention.batched_generation import trace_generations
from flmm.attention.spans import locate, token_offsets
from flmm.attention.trace import Trace
from flmm.attention.tracing import Step
from flmm.errors import InputError
from flmm.grounding.mask_predictor import MaskMethod, Said
from flmm.grounding.phrase_extraction import PhraseChoice, PhrasesSoFar
from flmm.lmm.batched_generation import Sampling
from flmm.lmm.prompt import Prompt
from flmm.serve.workers.events import Finished, Located, PhraseFound, Reason, Tell, TextSaid
from flmm.serve.workers.job import Job, Slot, Workshop
from flmm.serve.workers.mask_batcher import Order
from flmm.serve.workers.stop_strings import find_stop, held_back
from flmm.stopwatch import Stopwatch
from flmm.types import PhraseSpan

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class PhraseWish:
    """Which phrases are grounded, and how."""

    choice: PhraseChoice
    refine: bool
    method: MaskMethod
    most: int
    """The first so many."""


@dataclass(frozen=True)
class Question:
    """What the model is asked."""

    prompt: Prompt
    pictures: Sequence[Image.Image]
    """The prompt's."""
    max_new_tokens: int
    sampling: Sampling
    stops: Sequence[str]
    wish: PhraseWish | None
    """None grounds nothing."""
    streams: bool
    """Whether each phrase is told as soon as it is complete."""


class SpeakJob(Job):
    """One question, answered among others; a ``flmm.attention.batched_generation.Listener``."""

    def __init__(
        self,
        question: Question,
        workshop: Workshop,
        slot: Slot,
        tell: Tell,
        watch: Stopwatch,
    ) -> None:
        super().__init__(slot, tell, watch)
        self.length = question.prompt.length + question.max_new_tokens
        self.prompt = question.prompt
        self.max_new_tokens = question.max_new_tokens
        self.sampling = question.sampling
        self._wish = question.wish if question.pictures else None
        self.wants_trace = self._wish is not None
        self._question = question
        self._workshop = workshop
        self._so_far = (
            PhrasesSoFar(self._wish.choice) if self._wish is not None and question.streams else None
        )
        self._text = ""
        self._heard: list[float] = []
        """When each token was said."""
        self._early: list[PhraseSpan] = []
        self._found: dict[PhraseSpan, Located] = {}
        self._began = 0.0
        self._is_alone = False
        """Whether nobody else's answer is said at the same time."""

    @classmethod
    def run_together(cls, jobs: Sequence[Self], workshop: Workshop) -> None:
        now = time.perf_counter()
        for job in jobs:
            job._began = now
            job._is_alone = len(jobs) == 1
            job.watch.seconds["queue"] = now - job.slot.began
        trace_generations(workshop.pipeline.adapter, jobs)

    def hear(self, step: Step) -> bool:
        """A token was said; whether the answer shall go on."""
        goes_on = False

        def hear() -> None:
            nonlocal goes_on
            goes_on = self._hear(step)

        self.guard(hear, self._workshop.metrics)
        return goes_on

    def _hear(self, step: Step) -> bool:
        now = time.perf_counter()
        metrics = self._workshop.metrics
        if not self._heard:
            metrics.first_token.observe(now - self.slot.began)
        elif len(self._heard) == 1 and self._wish is not None and self._wish.refine:
            # Not at once, so that the first token goes out before anything else is begun.
            self._show_picture()
        metrics.tokens.inc()
        self._heard.append(now)
        stops = self._question.stops
        text = step.text.rstrip(_UNFINISHED)
        stop = find_stop(text, stops)
        self._say(text[: len(text) - held_back(text, stops) if stop is None else stop])
        if self._so_far is not None:
            self._ground_early(self._so_far.after(step, self._text), step)
        return stop is None

    def _say(self, text: str) -> None:
        if text.startswith(self._text) and text != self._text:
            self.tell(TextSaid(text[len(self._text) :]))
            self._text = text

    def _ground_early(self, spans: Sequence[PhraseSpan], step: Step) -> None:
        assert self._wish is not None
        chosen = spans[: self._wish.most - len(self._early)]
        if not chosen:
            return
        self._early.extend(chosen)
        self._order_masks(chosen, step.trace())
        if self._is_alone:
            # A mask takes as long as several words, longer still beside them: words that ran ahead
            # would gain nothing, since the answer is whole with its last mask.
            self._workshop.desk.wait_until_begun()

    def end_of_answer(self, token_ids: Tensor, trace: Trace | None) -> None:
        """All tokens are said."""
        self.guard(lambda: self._end(token_ids, trace), self._workshop.metrics)

    def _end(self, token_ids: Tensor, trace: Trace | None) -> None:
        self.watch.seconds["generate"] = time.perf_counter() - self._began
        adapter = self._workshop.pipeline.adapter
        whole = adapter.decode(token_ids)
        stop = find_stop(whole, self._question.stops)
        text = whole[:stop]
        self._say(text)
        is_cut = stop is None and len(token_ids) >= self.max_new_tokens
        spans: list[PhraseSpan] = []
        if trace is not None and self._wish is not None:
            with self.watch.stage("phrases"):
                spans = self._spans(trace, text, self._wish)

        def finish(_: Sequence[Phrase] = ()) -> None:
            located = tuple(self._found[span] for span in spans)
            reason: Reason = "length" if is_cut else "stop"
            finished = Finished(text, located, reason, len(token_ids), self.watch.seconds)
            self.end(finished, self._workshop.metrics)

        if trace is None or not spans:
            finish()
            return
        self._order_masks([span for span in spans if span not in self._early], trace)
        # Done after all those before it.
        self._order(self._question.pictures[0], (), finish, refine=False)

    def _spans(self, trace: Trace, text: str, wish: PhraseWish) -> list[PhraseSpan]:
        """The answer's phrases, those that were told early among them."""
        offsets = token_offsets(wish.choice.tokenizer, trace.token_ids, text)
        choice = wish.choice
        if choice.phrases is not None:
            choice = replace(choice, phrases=_mentioned(text, choice.phrases))
        others = [span for span in choice.spans(trace, text, offsets) if span not in self._early]
        chosen = [*self._early, *others[: wish.most - len(self._early)]]
        return sorted(chosen, key=lambda span: (span.start, span.end))

    def _show_picture(self) -> None:
        # Of several, the one that a phrase is in is known only with the phrase.
        if len(self._question.pictures) == 1:
            self._order(self._question.pictures[0], (), lambda _: None)

    def _order_masks(self, spans: Sequence[PhraseSpan], trace: Trace) -> None:
        by_picture: dict[int, list[PhraseSpan]] = {}
        for span in spans:
            by_picture.setdefault(_looked_at(span, trace), []).append(span)
        for index, chosen in by_picture.items():
            alone = replace(trace, pictures=(trace.pictures[index],))
            said = [(span, alone) for span in chosen]
            self._order(self._question.pictures[index], said, partial(self._take, index, chosen))

    def _order(
        self,
        picture: Image.Image,
        said: Sequence[Said],
        take: Callable[[Sequence[Phrase]], None],
        refine: bool = True,
    ) -> None:
        wish = self._wish
        assert wish is not None
        order = Order(self, picture, said, refine and wish.refine, wish.method, take)
        self._workshop.desk.put(order)

    def _take(self, index: int, spans: Sequence[PhraseSpan], found: Sequence[Phrase]) -> None:
        metrics = self._workshop.metrics
        for span, phrase in zip(spans, found, strict=True):
            metrics.phrases.inc()
            self._found[span] = Located(phrase, index)
            if self._so_far is not None:
                metrics.mask.observe(time.perf_counter() - self._heard[span.tokens[-1]])
                self.tell(PhraseFound(self._found[span]))


def _mentioned(text: str, phrases: Sequence[str]) -> list[str]:
    """Those that the text says, each as often as it says it."""
    times: Counter[str] = Counter()
    found = []
    for phrase in phrases:
        try:
            locate(text, phrase, times[phrase])
        except InputError:
            continue
        times[phrase] += 1
        found.append(phrase)
    return found


def _looked_at(span: PhraseSpan, trace: Trace) -> int:
    """The picture to which the phrase's tokens attend most."""
    if len(trace.pictures) == 1:
        return 0
    shares = [float(picture.of_tokens(span.tokens).sum()) for picture in trace.pictures]
    return shares.index(max(shares))
