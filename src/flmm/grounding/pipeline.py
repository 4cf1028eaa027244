"""From a question to a grounded answer: the frozen LMM generates, a mask predictor makes masks.

Letters: ``H W`` picture size.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from flmm.answers.answer import Answer
from flmm.answers.phrase import Phrase
from flmm.attention.batched_tracing import trace_generation_batch
from flmm.attention.generation_step import GenerationStep
from flmm.attention.trace import Trace
from flmm.attention.tracing import limit_new_tokens, trace_generation
from flmm.errors import InputError
from flmm.grounding.chat_options import ChatOptions
from flmm.grounding.conversation import Pictures, build_conversation
from flmm.grounding.head_mask_predictor import HeadMaskPredictor
from flmm.grounding.mask_options import MaskOptions
from flmm.grounding.mask_predictor import MaskPredictor
from flmm.grounding.phrase_extraction import PhraseExtractor, PhraseSource
from flmm.grounding.several_pictures import predict_in_several_pictures
from flmm.grounding.training_free_mask_predictor import TrainingFreeMaskPredictor
from flmm.head.model import GroundingHead
from flmm.head.prompt_templates import PromptTemplates
from flmm.lmm.base import LMMAdapter
from flmm.lmm.places import check_places
from flmm.lmm.prompt import Prompt
from flmm.lmm.sampling import GREEDY, SamplingParams
from flmm.segmenters.base import Segmenter
from flmm.stopwatch import Stopwatch
from flmm.training_free.masks import TRAINING_FREE
from flmm.training_free.profile import Profile
from flmm.user_input import check_max_new_tokens, check_phrases


@dataclass(frozen=True)
class GenerationRequest:
    """A question about a picture, ready for the LMM."""

    pictures: tuple[Image.Image, ...]
    """RGB: the prompt's first pictures, in its order; each phrase is grounded in one of them."""
    prompt: Prompt
    """Without an answer."""
    phrase_extractor: PhraseExtractor
    """Extractor of the answer's phrases."""
    max_new_tokens: int
    """The answer is cut there."""
    mask_options: MaskOptions
    stopwatch: Stopwatch
    """Timings of every stage."""
    sampling_params: SamplingParams = GREEDY

    @property
    def picture(self) -> Image.Image:
        """The prompt's first picture."""
        return self.pictures[0]


class _TraceListener:
    """A ``GenerationListener`` that keeps the answer's trace."""

    wants_trace = True

    def __init__(
        self,
        request: GenerationRequest,
        on_step: Callable[[GenerationStep], None] | None = None,
    ) -> None:
        self.prompt = request.prompt
        self.max_new_tokens = request.max_new_tokens
        self.sampling_params = request.sampling_params
        self.trace: Trace
        self._on_step = on_step

    def on_step(self, step: GenerationStep) -> bool:
        if self._on_step is not None:
            self._on_step(step)
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
        image: Pictures | None,
        question: str,
        phrase_extractor: PhraseExtractor,
        options: ChatOptions,
    ) -> GenerationRequest:
        """Check a question about pictures and build its prompt.

        Raises:
            InputError: a picture cannot be read, the question is empty or too long, a message
                before it is not in the format, ``max_new_tokens`` is below 1, or the LMM takes no
                messages before the question.
        """
        check_max_new_tokens(options.max_new_tokens)
        stopwatch = Stopwatch()
        with stopwatch.stage("picture"):
            conversation = build_conversation(image, question, options.history, options.system)
            if conversation.history and not self.adapter.supports_conversation:
                raise InputError(
                    f"the LMM {self.lmm_name!r} answers one question at a time; leave out the"
                    " history and the system prompt"
                )
            asked = conversation.question
            prompt = self.adapter.build_prompt(
                asked.pictures, asked.text, history=conversation.history
            )
            max_new_tokens = limit_new_tokens(self.adapter, prompt, options.max_new_tokens)
        return GenerationRequest(
            conversation.pictures,
            prompt,
            phrase_extractor,
            max_new_tokens,
            options.mask_options,
            stopwatch,
            options.sampling_params,
        )

    @torch.no_grad()
    def run(self, request: GenerationRequest) -> Answer:
        """Generate the answer and ground its phrases."""
        return self.ground_phrases(request, *self.generate(request))

    def generate(
        self,
        request: GenerationRequest,
        on_step: Callable[[GenerationStep], None] | None = None,
    ) -> tuple[Trace, str]:
        """Generate the answer; return its trace and text.

        ``on_step`` is called with each generated token, except the end of the sequence.
        """
        with request.stopwatch.stage("generate"):
            if request.sampling_params.temperature == 0:
                prompt, limit = request.prompt, request.max_new_tokens
                return trace_generation(self.adapter, prompt, limit, on_step)
            # With a random generator of its own, other than transformers' generate.
            listener = _TraceListener(request, on_step)
            trace_generation_batch(self.adapter, [listener])
            return listener.trace, self.adapter.decode(listener.trace.token_ids)

    @torch.no_grad()
    def run_batch(self, requests: Sequence[GenerationRequest]) -> list[Answer]:
        """Run all requests in one batch; each stopwatch gets the whole batch's time."""
        listeners = [_TraceListener(request) for request in requests]
        with ExitStack() as stages:
            for request in requests:
                stages.enter_context(request.stopwatch.stage("generate"))
            trace_generation_batch(self.adapter, listeners)
        traces = [listener.trace for listener in listeners]
        return [
            self.ground_phrases(request, trace, self.adapter.decode(trace.token_ids))
            for request, trace in zip(requests, traces, strict=True)
        ]

    @torch.no_grad()
    def ground_phrases(self, request: GenerationRequest, trace: Trace, text: str) -> Answer:
        """Ground the phrases of a request's complete answer; the LMM may run."""
        options, stopwatch = request.mask_options, request.stopwatch
        with stopwatch.stage("phrases"):
            spans = request.phrase_extractor.extract(trace, text)
        if len(request.pictures) > 1:
            phrases = predict_in_several_pictures(
                self.adapter,
                self.mask_predictor,
                request.pictures,
                request.prompt.question,
                text,
                spans,
                trace,
                options,
                stopwatch,
            )
            return self.build_answer(request.pictures, text, phrases, options, stopwatch)
        with stopwatch.stage("phrases"):
            first_picture = replace(trace, picture_attentions=trace.picture_attentions[:1])
            traced_phrases = self.mask_predictor.add_references(
                request.picture, [(span, first_picture) for span in spans]
            )
        phrases = self.mask_predictor.predict(request.picture, traced_phrases, options, stopwatch)
        return self.build_answer(request.pictures, text, phrases, options, stopwatch)

    def build_answer(
        self,
        pictures: Sequence[Image.Image],
        text: str,
        phrases: tuple[Phrase, ...],
        mask_options: MaskOptions,
        stopwatch: Stopwatch,
    ) -> Answer:
        """Return an answer with the phrases that are kept and the names of the two models."""
        picture, *later = pictures
        kept = tuple(phrase for phrase in phrases if mask_options.keeps(phrase.score))
        return Answer(
            text,
            self.model_name,
            self.lmm_name,
            (picture.height, picture.width),
            kept,
            stopwatch.timings,
            picture,
            tuple(later),
        )


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
