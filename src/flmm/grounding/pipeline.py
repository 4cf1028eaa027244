"""From a question to a grounded answer: the frozen LMM generates, a mask predictor makes masks.

Letters: ``H W`` picture size.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from flmm.answers.answer import Answer
from flmm.answers.phrase import Phrase
from flmm.attention.batched_tracing import trace_generation_batch
from flmm.attention.trace import Trace
from flmm.attention.tracing import GenerationStep, limit_new_tokens, trace_generation
from flmm.grounding.head_mask_predictor import HeadMaskPredictor
from flmm.grounding.mask_options import MaskOptions
from flmm.grounding.mask_predictor import MaskPredictor
from flmm.grounding.phrase_extraction import PhraseExtractor, PhraseSource
from flmm.grounding.training_free_mask_predictor import TrainingFreeMaskPredictor
from flmm.head.model import GroundingHead
from flmm.head.prompt_templates import PromptTemplates
from flmm.lmm.base import LMMAdapter
from flmm.lmm.places import check_places
from flmm.lmm.prompt import Prompt
from flmm.lmm.sampling import SamplingParams
from flmm.pictures.reading import PictureLike, read_picture
from flmm.segmenters.base import Segmenter
from flmm.stopwatch import Stopwatch
from flmm.training_free.masks import TRAINING_FREE
from flmm.training_free.profile import Profile
from flmm.user_input import check_max_new_tokens, check_phrases, check_text


@dataclass(frozen=True)
class GenerationRequest:
    """A question about a picture, ready for the LMM."""

    picture: Image.Image
    """RGB: the prompt's first picture."""
    prompt: Prompt
    """Without an answer."""
    phrase_extractor: PhraseExtractor
    """Extractor of the answer's phrases."""
    max_new_tokens: int
    """The answer is cut there."""
    mask_options: MaskOptions
    stopwatch: Stopwatch
    """Timings of every stage."""


class _TraceListener:
    """A ``GenerationListener`` that keeps the answer's trace."""

    sampling_params = SamplingParams()
    wants_trace = True

    def __init__(self, prompt: Prompt, max_new_tokens: int) -> None:
        self.prompt = prompt
        self.max_new_tokens = max_new_tokens
        self.trace: Trace

    def on_step(self, _: GenerationStep) -> bool:
        return True

    def on_end(self, _: Tensor, trace: Trace | None) -> None:
        assert trace is not None
        self.trace = trace


@dataclass(frozen=True)
class Pipeline:
    """The models that all methods of ``Grounder`` use."""

    adapter: LMMAdapter
    head: GroundingHead | None
    mask_predictor: MaskPredictor
    model_name: str
    """The head's name in answers, or "training-free"."""
    lmm_name: str
    """The LMM's name in answers."""

    @property
    def prompt_templates(self) -> PromptTemplates:
        """The head's questions, or flmm's defaults."""
        return PromptTemplates() if self.head is None else self.head.config.prompt_templates

    def create_phrase_extractor(
        self, phrases: Sequence[str] | None = None, source: PhraseSource | None = None
    ) -> PhraseExtractor:
        """Return the extractor of the phrases that are grounded.

        Raises:
            InputError: the list is empty, there is no such source, or it needs a head; or phrases
                are named, and image tokens have no places.
        """
        if phrases is not None:
            phrases = check_phrases(phrases)
            check_places(self.adapter)
        elif self.adapter.placeless_reason is not None:
            phrases = ()
        return PhraseExtractor(self.head, self.adapter.tokenizer, phrases, source)

    def prepare_request(
        self,
        image: PictureLike,
        question: str,
        phrase_extractor: PhraseExtractor,
        max_new_tokens: int,
        mask_options: MaskOptions,
    ) -> GenerationRequest:
        """Check a question about a picture and build its prompt.

        Raises:
            InputError: the picture cannot be read, the question is empty or too long, or
                ``max_new_tokens`` is below 1.
        """
        question = check_text("question", question)
        check_max_new_tokens(max_new_tokens)
        stopwatch = Stopwatch()
        with stopwatch.stage("picture"):
            picture = read_picture(image)
            prompt = self.adapter.build_prompt(picture, question)
            max_new_tokens = limit_new_tokens(self.adapter, prompt, max_new_tokens)
        return GenerationRequest(
            picture, prompt, phrase_extractor, max_new_tokens, mask_options, stopwatch
        )

    @torch.no_grad()
    def run(self, request: GenerationRequest) -> Answer:
        """Generate the answer and ground its phrases on the first picture."""
        with request.stopwatch.stage("generate"):
            trace, text = trace_generation(self.adapter, request.prompt, request.max_new_tokens)
        return self._ground_phrases(request, trace, text)

    @torch.no_grad()
    def run_batch(self, requests: Sequence[GenerationRequest]) -> list[Answer]:
        """Run all requests in one batch; each stopwatch gets the whole batch's time."""
        listeners = [_TraceListener(request.prompt, request.max_new_tokens) for request in requests]
        with ExitStack() as stages:
            for request in requests:
                stages.enter_context(request.stopwatch.stage("generate"))
            trace_generation_batch(self.adapter, listeners)
        traces = [listener.trace for listener in listeners]
        return [
            self._ground_phrases(request, trace, self.adapter.decode(trace.token_ids))
            for request, trace in zip(requests, traces, strict=True)
        ]

    def _ground_phrases(self, request: GenerationRequest, trace: Trace, text: str) -> Answer:
        with request.stopwatch.stage("phrases"):
            spans = request.phrase_extractor.extract(trace, text)
            first_picture = replace(trace, picture_attentions=trace.picture_attentions[:1])
            traced_phrases = self.mask_predictor.add_references(
                request.picture, [(span, first_picture) for span in spans]
            )
        phrases = self.mask_predictor.predict(
            request.picture, traced_phrases, request.mask_options, request.stopwatch
        )
        return self.build_answer(
            request.picture, text, phrases, request.mask_options, request.stopwatch
        )

    def build_answer(
        self,
        picture: Image.Image,
        text: str,
        phrases: tuple[Phrase, ...],
        mask_options: MaskOptions,
        stopwatch: Stopwatch,
    ) -> Answer:
        """Return an answer with the phrases that are kept and the names of the two models."""
        size = (picture.height, picture.width)
        kept = tuple(phrase for phrase in phrases if mask_options.keeps(phrase.score))
        return Answer(text, self.model_name, self.lmm_name, size, kept, stopwatch.timings, picture)


def build_pipeline(
    adapter: LMMAdapter,
    head: GroundingHead | None,
    segmenter: Segmenter | None,
    profile: Profile | None = None,
    model_name: str | None = None,
    lmm_name: str | None = None,
    max_cached_pictures: int = 4,
) -> Pipeline:
    """Return the pipeline of an LMM with a head, or without one.

    Args:
        adapter: the LMM.
        head: None makes masks without training.
        segmenter: of masks without a head; None makes them from attention alone.
        profile: of masks without a head; None weighs the LMM's attention heads alike.
        model_name: in answers; None for "" with a head and "training-free" without.
        lmm_name: in answers; None for the adapter's.
        max_cached_pictures: whose embeddings are kept.
    """
    mask_predictor: MaskPredictor
    if head is None:
        mask_predictor = TrainingFreeMaskPredictor(adapter, segmenter, profile, max_cached_pictures)
    else:
        mask_predictor = HeadMaskPredictor(adapter, head, max_cached_pictures)
    if model_name is None:
        model_name = TRAINING_FREE if head is None else ""
    return Pipeline(adapter, head, mask_predictor, model_name, lmm_name or adapter.name)
