"""The frozen LMM and the head at work together: from a prompt to a grounded answer.

Letters: ``H W`` picture size.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from flmm.answers.answer import Answer, Phrase
from flmm.attention.batched_generation import trace_generations
from flmm.attention.trace import Trace
from flmm.attention.tracing import Step, trace_generation
from flmm.grounding.mask_predictor import PhraseMasks
from flmm.grounding.phrase_extraction import PhraseChoice, PhraseSource
from flmm.head.model import GroundingHead
from flmm.lmm.base import LMMAdapter
from flmm.lmm.batched_generation import Sampling
from flmm.lmm.prompt import Prompt
from flmm.pictures.reading import Picture, read_picture
from flmm.stopwatch import Stopwatch
from flmm.user_input import check_limit, check_phrases, check_text


@dataclass(frozen=True)
class Asked:
    """A question about a picture, ready for the LMM."""

    picture: Image.Image
    """RGB, the first of the prompt's."""
    prompt: Prompt
    """Without an answer."""
    choice: PhraseChoice
    """Of the answer's phrases."""
    max_new_tokens: int
    """The answer is cut there."""
    refine: bool
    """False leaves out the mask refiner."""
    watch: Stopwatch
    """Is told of every stage."""


class _Hearing:
    """A ``flmm.attention.batched_generation.Listener`` that waits for the end."""

    sampling = Sampling()
    wants_trace = True

    def __init__(self, prompt: Prompt, max_new_tokens: int) -> None:
        self.prompt = prompt
        self.max_new_tokens = max_new_tokens
        self.trace: Trace

    def hear(self, _: Step) -> bool:
        return True

    def end_of_answer(self, _: Tensor, trace: Trace | None) -> None:
        assert trace is not None
        self.trace = trace


@dataclass(frozen=True)
class Pipeline:
    """What all of the grounder's members work with."""

    adapter: LMMAdapter
    head: GroundingHead
    masks: PhraseMasks
    model: str
    """The head's name in answers."""
    lmm: str
    """The LMM's name in answers."""

    def choice(
        self, phrases: Sequence[str] | None = None, source: PhraseSource | None = None
    ) -> PhraseChoice:
        """Of the phrases that are grounded.

        Raises:
            InputError: the list is empty, or there is no such source.
        """
        if phrases is not None:
            phrases = check_phrases(phrases)
        return PhraseChoice(self.head, self.adapter.tokenizer, phrases, source)

    def prepare(
        self,
        image: Picture,
        question: str,
        choice: PhraseChoice,
        max_new_tokens: int,
        refine: bool,
    ) -> Asked:
        """A question about a picture, checked.

        Raises:
            InputError: the picture cannot be read, the question is empty, or no token may be said.
        """
        question = check_text("question", question)
        check_limit(max_new_tokens)
        watch = Stopwatch()
        with watch.stage("picture"):
            picture = read_picture(image)
            prompt = self.adapter.prepare(picture, question)
        return Asked(picture, prompt, choice, max_new_tokens, refine, watch)

    @torch.no_grad()
    def ask(self, asked: Asked) -> Answer:
        """Lets the LMM answer, and grounds its phrases on the first picture."""
        with asked.watch.stage("generate"):
            trace, text = trace_generation(self.adapter, asked.prompt, asked.max_new_tokens)
        return self._ground(asked, trace, text)

    @torch.no_grad()
    def ask_together(self, questions: Sequence[Asked]) -> list[Answer]:
        """``ask`` for each, all answers generated in one batch; each watch has its whole time."""
        hearings = [_Hearing(asked.prompt, asked.max_new_tokens) for asked in questions]
        with ExitStack() as stages:
            for asked in questions:
                stages.enter_context(asked.watch.stage("generate"))
            trace_generations(self.adapter, hearings)
        return [
            self._ground(asked, trace, self.adapter.decode(trace.token_ids))
            for asked, trace in zip(questions, (hearing.trace for hearing in hearings), strict=True)
        ]

    def _ground(self, asked: Asked, trace: Trace, text: str) -> Answer:
        with asked.watch.stage("phrases"):
            spans = asked.choice.spans(trace, text)
        first = replace(trace, pictures=trace.pictures[:1])
        said = [(span, first) for span in spans]
        found = self.masks.ground(asked.picture, said, asked.refine, asked.watch)
        return self.answer(asked.picture, text, found, asked.watch)

    def answer(
        self, picture: Image.Image, text: str, phrases: tuple[Phrase, ...], watch: Stopwatch
    ) -> Answer:
        """An answer under the two models' names."""
        size = (picture.height, picture.width)
        return Answer(text, self.model, self.lmm, size, phrases, watch.seconds, picture)
