"""What the routes share: the model's queue, and how requests are made ready for it."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from PIL import Image

from flmm.grounding.mask_predictor import MaskMethod, PhraseMasks
from flmm.grounding.pipeline import Pipeline
from flmm.grounding.referring import referring_prompts
from flmm.lmm.batched_generation import Sampling
from flmm.lmm.prompt import Message, Prompt
from flmm.serve.common.conversation import Conversation
from flmm.serve.common.requests import Grounding, Said
from flmm.serve.errors import Problem
from flmm.serve.metrics import Metrics
from flmm.serve.protection.picture_reader import PictureReader
from flmm.serve.protection.prompt_limits import PromptLimits
from flmm.serve.settings import ServerSettings
from flmm.serve.workers.attend_job import AttendJob, Look
from flmm.serve.workers.chat_job import PhraseWish, Question, SpeakJob
from flmm.serve.workers.events import Tell
from flmm.serve.workers.job import Job, Slot, Workshop
from flmm.serve.workers.mask_batcher import MaskDesk
from flmm.serve.workers.model_queue import Busy, ModelQueue
from flmm.serve.workers.running_job import Made, Running, _beside
from flmm.serve.workers.segment_job import SegmentJob, Wanted
from flmm.stopwatch import Stopwatch
from flmm.user_input import check_phrases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flmm.grounding.grounder import Grounder

_READERS = 2
"""Threads that decode pictures and write masks; each may hold one of the largest."""


class Service:
    """A grounder at work for many.

    Args:
        grounder: nobody else uses it meanwhile.
        settings: the server's.
    """

    def __init__(self, grounder: "Grounder", settings: ServerSettings) -> None:
        self.settings = settings
        self.limits = settings.limits
        self.metrics = Metrics()
        self.pictures = PictureReader(settings)
        masks = PhraseMasks(grounder.head, remembered=settings.together)
        self.pipeline = Pipeline(
            grounder.adapter, grounder.head, masks, grounder.model, grounder.lmm
        )
        desk = MaskDesk(masks, self.metrics)
        self.workshop = Workshop(self.pipeline, self.metrics, desk)
        self.queue = ModelQueue(self.workshop, settings.queue, settings.together)
        self._readers = ThreadPoolExecutor(_READERS, "flmm-reading")
        text_config = grounder.adapter.text_model.config
        longest = getattr(text_config, "max_position_embeddings", self.limits.prompt_tokens)
        self.prompt_limits = PromptLimits(self.limits, int(longest))

    def close(self) -> None:
        """Finishes what was begun."""
        self.queue.close()
        self._readers.shutdown()

    @contextmanager
    def admitted(self) -> "Iterator[Slot]":
        """A place for a request, kept by its job unless the block raises.

        Raises:
            Problem: all are taken.
        """
        try:
            slot = self.queue.admit()
        except Busy as error:
            raise Problem(
                429,
                "busy",
                f"{self.queue.capacity} requests are served or wait; {error}",
                headers={"retry-after": str(error.seconds)},
            ) from error
        try:
            yield slot
        except BaseException:
            slot.release()
            raise

    async def made_ready(self, make: Callable[[], Made]) -> Made:
        """Runs what reads pictures and texts beside the event loop."""
        return await _beside(self._readers, make)

    def question(
        self, asked: Conversation, said: Said, grounding: Grounding | None, streams: bool
    ) -> Question:
        """What the model is asked.

        Raises:
            Problem: it exceeds a limit.
            InputError: the model cannot take it.
        """
        wanted = said.most_tokens
        most = self.prompt_limits.most_tokens(wanted)
        wish = None if grounding is None else self._wish(grounding)
        messages = (*asked.history, asked.question)
        self.prompt_limits.check_texts([message.text for message in messages])
        if asked.history and not self.pipeline.adapter.converses:
            raise Problem(
                400,
                "no_conversation",
                f"{self.pipeline.lmm!r} answers one question at a time; send one message",
                "messages",
            )
        prompt = self._prompt(asked.question, asked.history)
        room = self.prompt_limits.check_room(prompt.length, wanted)
        return Question(
            prompt=prompt,
            pictures=asked.pictures,
            max_new_tokens=min(room, most),
            sampling=Sampling(said.temperature or 0.0, said.seed),
            stops=said.stops,
            wish=wish,
            streams=streams,
        )

    def _wish(self, grounding: Grounding) -> PhraseWish:
        phrases = grounding.phrases
        most = grounding.max_phrases or self.limits.phrases
        self.prompt_limits.check_count(len(phrases or ()), "phrases")
        self.prompt_limits.check_count(most, "max_phrases")
        refine = grounding.refine and grounding.method == "head"
        return PhraseWish(self.pipeline.choice(phrases), refine, grounding.method, most)

    def _prompt(self, question: Message, history: Sequence[Message]) -> Prompt:
        return self.pipeline.adapter.prepare(question.pictures, question.text, history=history)

    def wanted(
        self, picture: Image.Image, phrases: Sequence[str], refine: bool, method: MaskMethod
    ) -> Wanted:
        """Phrases that are looked for.

        Raises:
            Problem: there are more than the limit.
            InputError: one is empty, or the model cannot take it.
        """
        self.prompt_limits.check_count(len(phrases), "phrases")
        self.prompt_limits.check_texts(phrases)
        checked = check_phrases(phrases)
        adapter, config = self.pipeline.adapter, self.pipeline.head.config
        prompts = referring_prompts(adapter, config, picture, checked)
        for prompt in prompts:
            self.prompt_limits.check_room(prompt.length, None)
        return Wanted(picture, checked, prompts, refine, method)

    def look(
        self,
        picture: Image.Image,
        question: str,
        words: Sequence[str] | None,
        answer: str | None,
        max_tokens: int | None,
    ) -> Look:
        """What is looked at.

        Raises:
            Problem: it exceeds a limit.
            InputError: the model cannot take it.
        """
        self.prompt_limits.check_count(len(words or ()), "words")
        self.prompt_limits.check_texts([question, answer or ""])
        # Only to learn its length; the look prepares its own, which costs little beside it.
        prompt = self.pipeline.adapter.prepare(picture, question, answer)
        most = self.prompt_limits.most_tokens(max_tokens)
        room = self.prompt_limits.check_room(prompt.length, max_tokens)
        return Look(picture, question, words, answer, min(room, most))

    def speak(self, question: Question, slot: Slot, watch: Stopwatch) -> Running:
        """Lets the model answer."""
        return self._running(lambda tell: SpeakJob(question, self.workshop, slot, tell, watch))

    def segment(self, wanted: Wanted, slot: Slot, watch: Stopwatch) -> Running:
        """Lets the model look for phrases."""
        return self._running(lambda tell: SegmentJob(wanted, slot, tell, watch))

    def attend(self, look: Look, slot: Slot, watch: Stopwatch) -> Running:
        """Lets the model look."""
        return self._running(lambda tell: AttendJob(look, slot, tell, watch))

    def _running(self, make: Callable[[Tell], Job]) -> Running:
        return Running(self.queue, self._readers, make)
