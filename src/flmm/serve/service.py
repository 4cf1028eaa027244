"""What the routes share: the model's queue, and how requests are made ready for it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from PIL import Image

from flmm.lmm.generation_batch import Sampling
from flmm.lmm.prompt import Message, Prompt
from flmm.phrase_masks import PhraseMasks
from flmm.pipeline import Pipeline
from flmm.referring import referring_prompts
from flmm.serve.attending import AttendJob, Look
from flmm.serve.conversation import Conversation
from flmm.serve.events import Attended, Event, Failed, Finished, Last
from flmm.serve.mask_desk import MaskDesk
from flmm.serve.media import PictureReader
from flmm.serve.metrics import Metrics
from flmm.serve.model_queue import Busy, Job, ModelQueue, Slot, Workshop
from flmm.serve.problems import Problem
from flmm.serve.requests import AttendRequest, Grounding, Said, SegmentRequest
from flmm.serve.segmenting import SegmentJob, Wanted
from flmm.serve.settings import ServerSettings
from flmm.serve.speaking import PhraseWish, Question, SpeakJob
from flmm.stopwatch import Stopwatch
from flmm.user_input import check_phrases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flmm.grounder import Grounder

Made = TypeVar("Made")
End = TypeVar("End", Finished, Attended)
Tell = Callable[[Event], None]

_USUAL_TOKENS = 256
"""Of an answer, where a request does not say."""
_READERS = 2
"""Threads that decode pictures and write masks; each may hold one of the largest."""
_LETTERS_A_TOKEN = 64
"""Texts longer than this many letters for each token allowed are not worth counting."""


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
        self._longest = int(longest)

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
        most = self._most_tokens(wanted)
        wish = None if grounding is None else self._wish(grounding)
        messages = (*asked.history, asked.question)
        self._check_texts([message.text for message in messages])
        if asked.history and not self.pipeline.adapter.converses:
            raise Problem(
                400,
                "no_conversation",
                f"{self.pipeline.lmm!r} answers one question at a time; send one message",
                "messages",
            )
        prompt = self._prompt(asked.question, asked.history)
        room = self._check_room(prompt, wanted)
        return Question(
            prompt=prompt,
            pictures=asked.pictures,
            max_new_tokens=min(room, most),
            sampling=Sampling(said.temperature or 0.0, said.seed),
            stops=said.stops,
            wish=wish,
            streams=streams,
        )

    def _most_tokens(self, wanted: int | None) -> int:
        """How many tokens an answer has at most."""
        most = self.limits.answer_tokens
        if wanted is not None and wanted > most:
            raise Problem(
                400, "too_many_tokens", f"max_tokens is {wanted}; give {most} at most", "max_tokens"
            )
        return wanted or min(most, _USUAL_TOKENS)

    def _wish(self, grounding: Grounding) -> PhraseWish:
        phrases = grounding.phrases
        most = grounding.max_phrases or self.limits.phrases
        self.check_count(len(phrases or ()), "phrases")
        self.check_count(most, "max_phrases")
        refine = grounding.refine and grounding.method == "head"
        return PhraseWish(self.pipeline.choice(phrases), refine, grounding.method, most)

    def check_count(self, count: int, param: str) -> None:
        """Raises Problem where more phrases are asked for than are grounded at once."""
        if count > self.limits.phrases:
            raise Problem(
                400,
                "too_many_phrases",
                f"{param} asks for {count} phrases; {self.limits.phrases} at most are grounded",
                param,
            )

    def _check_texts(self, texts: Sequence[str]) -> None:
        most = min(self.limits.prompt_tokens, self._longest)
        if sum(map(len, texts)) > most * _LETTERS_A_TOKEN:
            raise _too_long(most, "more")

    def _prompt(self, question: Message, history: Sequence[Message]) -> Prompt:
        return self.pipeline.adapter.prepare(question.pictures, question.text, history=history)

    def _check_room(self, prompt: Prompt, wanted: int | None) -> int:
        """How many tokens the answer may have."""
        if prompt.length > self.limits.prompt_tokens:
            raise _too_long(self.limits.prompt_tokens, str(prompt.length))
        # One token more is fed back than is said.
        room = self._longest - prompt.length - 1
        if room < (wanted or 1):
            raise Problem(
                400,
                "context_length_exceeded",
                f"the prompt has {prompt.length} tokens and the model takes {self._longest};"
                f" {max(room, 0)} are left for the answer",
                "messages",
            )
        return room

    def wanted(self, asked: SegmentRequest, picture: Image.Image) -> Wanted:
        """Phrases that are looked for.

        Raises:
            Problem: there are more than the limit.
            InputError: one is empty, or the model cannot take it.
        """
        self.check_count(len(asked.phrases), "phrases")
        self._check_texts(asked.phrases)
        checked = check_phrases(asked.phrases)
        adapter, config = self.pipeline.adapter, self.pipeline.head.config
        prompts = referring_prompts(adapter, config, picture, checked)
        for prompt in prompts:
            self._check_room(prompt, None)
        return Wanted(picture, checked, prompts, asked.refine, asked.method)

    def look(self, asked: AttendRequest, picture: Image.Image) -> Look:
        """What is looked at.

        Raises:
            Problem: it exceeds a limit.
            InputError: the model cannot take it.
        """
        words = asked.words
        self.check_count(len(words or ()), "words")
        self._check_texts([asked.question, asked.answer or ""])
        # Only to learn its length; the look prepares its own, which costs little beside it.
        prompt = self.pipeline.adapter.prepare(picture, asked.question, asked.answer)
        most = self._most_tokens(asked.max_tokens)
        room = self._check_room(prompt, asked.max_tokens)
        return Look(picture, asked.question, words, asked.answer, min(room, most))

    def speak(self, question: Question, slot: Slot, watch: Stopwatch) -> "Running":
        """Lets the model answer."""
        return self._running(lambda tell: SpeakJob(question, self.workshop, slot, tell, watch))

    def segment(self, wanted: Wanted, slot: Slot, watch: Stopwatch) -> "Running":
        """Lets the model look for phrases."""
        return self._running(lambda tell: SegmentJob(wanted, slot, tell, watch))

    def attend(self, look: Look, slot: Slot, watch: Stopwatch) -> "Running":
        """Lets the model look."""
        return self._running(lambda tell: AttendJob(look, slot, tell, watch))

    def _running(self, make: Callable[[Tell], Job]) -> "Running":
        return Running(self.queue, self._readers, make)


async def _beside(executor: Executor, make: Callable[[], Made]) -> Made:
    return await asyncio.get_running_loop().run_in_executor(executor, make)


def _too_long(most: int, count: str) -> Problem:
    return Problem(
        400,
        "context_length_exceeded",
        f"the messages have {count} tokens; {most} at most are read",
        "messages",
    )


class Running:
    """A job in the queue, heard from the event loop."""

    def __init__(self, queue: ModelQueue, writers: Executor, make: Callable[[Tell], Job]) -> None:
        self._queue = queue
        self._writers = writers
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._job = make(self._take)
        queue.put(self._job)

    def _take(self, event: Event) -> None:
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def cancel(self) -> None:
        """Nobody waits any more."""
        self._queue.cancel(self._job)

    async def written(self, write: Callable[[], Made]) -> Made:
        """Runs what puts masks into words beside the event loop: large ones take their time."""
        return await _beside(self._writers, write)

    async def events(self) -> AsyncIterator[Event]:
        """All events, up to the last one."""
        while True:
            event = await self._events.get()
            yield event
            if isinstance(event, Last):
                return

    async def finished(self, kind: type[End]) -> End:
        """The end, of the kind that such a job has.

        Raises:
            Exception: what went wrong.
        """
        async for event in self.events():
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, kind):
                return event
        raise AssertionError(f"the job did not end with {kind.__name__}")
