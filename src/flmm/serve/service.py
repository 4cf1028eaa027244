"""What the routes share: the model queue, and the preparation of requests for it."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from PIL import Image

from flmm.attention.trace import Trace, TracedPhrase
from flmm.errors import InputError
from flmm.grounding.conversation import Conversation
from flmm.grounding.given_text import build_text_prompt, extract_traced_phrases
from flmm.grounding.mask_predictor import MaskMethod
from flmm.grounding.pipeline import build_pipeline
from flmm.grounding.referring import build_referring_prompts, join_traced_phrases
from flmm.lmm.sampling import SamplingParams
from flmm.serve.common.request_models import Grounding, MaskRequest, SamplingOptions
from flmm.serve.common.unused_fields import UnusedFields
from flmm.serve.errors import APIError
from flmm.serve.metrics import Metrics
from flmm.serve.protection.prompt_limits import PromptLimits
from flmm.serve.protection.uploaded_pictures import PictureReader
from flmm.serve.settings import ServerSettings
from flmm.serve.workers.attend_job import AttendInputs, AttendJob
from flmm.serve.workers.chat_inputs import ChatInputs, PhraseRequest
from flmm.serve.workers.chat_job import ChatJob
from flmm.serve.workers.events import EventCallback
from flmm.serve.workers.given_text_job import GivenTextInputs, GivenTextJob
from flmm.serve.workers.job import Job, Slot, WorkerContext
from flmm.serve.workers.mask_batcher import MaskBatcher
from flmm.serve.workers.model_queue import ModelQueue, QueueFullError
from flmm.serve.workers.running_job import Result, RunningJob, run_in_executor
from flmm.stopwatch import Stopwatch
from flmm.user_input import check_phrases, check_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flmm.grounding.grounder import Grounder

_NUM_EXECUTOR_THREADS = 2
"""Threads that decode pictures and encode masks; each may hold a picture of the largest size."""


class Service:
    """Prepares requests, and runs them on one grounder.

    Args:
        grounder: nobody else may use it meanwhile.
        settings: the server's.
    """

    def __init__(self, grounder: "Grounder", settings: ServerSettings) -> None:
        self.settings = settings
        self.limits = settings.limits
        self.metrics = Metrics()
        self.picture_reader = PictureReader(settings)
        self.unused_fields = UnusedFields()
        self.pipeline = build_pipeline(
            grounder.adapter,
            grounder.head,
            grounder.segmenter,
            grounder.profile,
            grounder.model,
            grounder.lmm,
            max_cached_pictures=settings.max_batch_size,
        )
        mask_batcher = MaskBatcher(self.pipeline.mask_predictor, self.metrics)
        self.worker_context = WorkerContext(self.pipeline, self.metrics, mask_batcher)
        self.queue = ModelQueue(
            self.worker_context, settings.queue_capacity, settings.max_batch_size
        )
        self._executor = ThreadPoolExecutor(_NUM_EXECUTOR_THREADS, "flmm-reading")
        context_length = grounder.adapter.context_length or self.limits.prompt_tokens
        self.prompt_limits = PromptLimits(self.limits, context_length)

    def close(self) -> None:
        """Finish all admitted requests, and stop the threads."""
        self.queue.close()
        self._executor.shutdown()

    @contextmanager
    def admit(self) -> "Iterator[Slot]":
        """Yield a slot for a request; its job keeps it unless the block raises.

        Raises:
            APIError: all slots are taken.
        """
        try:
            slot = self.queue.admit()
        except QueueFullError as error:
            raise APIError(
                429,
                "busy",
                f"{self.queue.capacity} requests are served or wait; {error}",
                headers={"retry-after": str(error.retry_after)},
            ) from error
        try:
            yield slot
        except BaseException:
            slot.release()
            raise

    async def run_in_thread(self, work: Callable[[], Result]) -> Result:
        """Run work that reads pictures and texts outside the event loop."""
        return await run_in_executor(self._executor, work)

    def prepare_chat(
        self,
        conversation: Conversation,
        options: SamplingOptions,
        grounding: Grounding | None,
        stream: bool,
    ) -> ChatInputs:
        """Return a chat's inputs for the model.

        Raises:
            APIError: it exceeds a limit.
            InputError: the model cannot take it.
        """
        max_tokens = self.prompt_limits.resolve_max_tokens(options.max_new_tokens)
        phrase_request = None if grounding is None else self._prepare_phrase_request(grounding)
        messages = (*conversation.history, conversation.question)
        self.prompt_limits.check_text_lengths([message.text for message in messages])
        if conversation.history and not self.pipeline.adapter.supports_conversation:
            raise APIError(
                400,
                "no_conversation",
                f"{self.pipeline.lmm_name!r} answers one question at a time; send one message",
                "messages",
            )
        question = conversation.question
        prompt = self.pipeline.adapter.build_prompt(
            question.pictures, question.text, history=conversation.history
        )
        room = self.prompt_limits.check_context_length(prompt.length)
        return ChatInputs(
            prompt=prompt,
            pictures=conversation.pictures,
            max_new_tokens=min(room, max_tokens),
            sampling_params=self._prepare_sampling(options),
            stop_strings=options.stop_strings,
            phrase_request=phrase_request,
            stream=stream,
        )

    def _prepare_sampling(self, options: SamplingOptions) -> SamplingParams:
        params = options.sampling_params
        config = self.pipeline.adapter.model.generation_config
        own_penalty = None if config is None else config.repetition_penalty
        if options.repetition_penalty is not None and own_penalty:
            # The LMM's own is applied as well, before it.
            params = replace(params, repetition_penalty=options.repetition_penalty / own_penalty)
        return params

    def _prepare_phrase_request(self, grounding: Grounding) -> PhraseRequest:
        phrases = grounding.phrases
        max_phrases = grounding.max_phrases or self.limits.phrases
        self.prompt_limits.check_phrase_count(len(phrases or ()), "phrases")
        self.prompt_limits.check_phrase_count(max_phrases, "max_phrases")
        self._check_method(grounding.method)
        return PhraseRequest(
            self.pipeline.create_phrase_extractor(phrases),
            grounding.mask_options,
            grounding.method,
            max_phrases,
        )

    def _check_method(self, method: MaskMethod | None) -> None:
        own = self.pipeline.mask_predictor.method
        if method not in (None, "kmeans", own):
            raise InputError(
                f"method is {method!r}, this server's model makes masks by {own!r}; leave it out,"
                " or choose 'kmeans'"
            )

    def prepare_segment(
        self, picture: Image.Image, phrases: Sequence[str], masks: MaskRequest
    ) -> GivenTextInputs:
        """Return inputs for the segmentation of phrases.

        Raises:
            APIError: there are more than the limit.
            InputError: one is empty, the model cannot take it, or has no such method.
        """
        self._check_method(masks.method)
        self.prompt_limits.check_phrase_count(len(phrases), "phrases")
        self.prompt_limits.check_text_lengths(phrases)
        checked = check_phrases(phrases)
        adapter, templates = self.pipeline.adapter, self.pipeline.prompt_templates
        prompts = build_referring_prompts(adapter, templates, picture, checked)
        for prompt in prompts:
            self.prompt_limits.check_context_length(prompt.length)
        return GivenTextInputs(
            picture,
            prompts,
            partial(join_traced_phrases, checked),
            masks.mask_options,
            masks.method,
        )

    def prepare_ground(
        self, picture: Image.Image, text: str, question: str | None, grounding: Grounding
    ) -> GivenTextInputs:
        """Return inputs for the grounding of a text.

        Raises:
            APIError: it exceeds a limit.
            InputError: the text is empty, or the model cannot take it.
        """
        phrase_request = self._prepare_phrase_request(grounding)
        if question is not None:
            check_text("question", question)
        self.prompt_limits.check_text_lengths([text, question or ""])
        adapter, templates = self.pipeline.adapter, self.pipeline.prompt_templates
        prompt = build_text_prompt(adapter, templates, picture, check_text("text", text), question)
        self.prompt_limits.check_context_length(prompt.length)

        def extract(traces: Sequence[Trace]) -> tuple[str, Sequence[TracedPhrase]]:
            extracted = extract_traced_phrases(phrase_request.extractor, prompt, text, traces)
            return text, extracted[1][: phrase_request.max_phrases]

        return GivenTextInputs(
            picture, [prompt], extract, phrase_request.mask_options, phrase_request.method
        )

    def prepare_attend(
        self,
        picture: Image.Image,
        question: str,
        words: Sequence[str] | None,
        answer: str | None,
        max_tokens: int | None,
    ) -> AttendInputs:
        """Return inputs for the attention maps of words.

        Raises:
            APIError: it exceeds a limit.
            InputError: the model cannot take it.
        """
        self.prompt_limits.check_phrase_count(len(words or ()), "words")
        self.prompt_limits.check_text_lengths([question, answer or ""])
        # Only for its length: the job builds its own, which costs little compared to running it.
        prompt = self.pipeline.adapter.build_prompt(picture, question, answer)
        limit = self.prompt_limits.resolve_max_tokens(max_tokens)
        room = self.prompt_limits.check_context_length(prompt.length)
        return AttendInputs(picture, question, words, answer, min(room, limit))

    def submit_chat(self, inputs: ChatInputs, slot: Slot, stopwatch: Stopwatch) -> RunningJob:
        """Queue a chat."""
        return self._submit(
            lambda on_event: ChatJob(inputs, self.worker_context, slot, on_event, stopwatch)
        )

    def submit_given_text(
        self, inputs: GivenTextInputs, slot: Slot, stopwatch: Stopwatch
    ) -> RunningJob:
        """Queue the grounding of given texts."""
        return self._submit(lambda on_event: GivenTextJob(inputs, slot, on_event, stopwatch))

    def submit_attend(self, inputs: AttendInputs, slot: Slot, stopwatch: Stopwatch) -> RunningJob:
        """Queue a computation of attention maps."""
        return self._submit(lambda on_event: AttendJob(inputs, slot, on_event, stopwatch))

    def _submit(self, create_job: Callable[[EventCallback], Job]) -> RunningJob:
        return RunningJob(self.queue, self._executor, create_job)
