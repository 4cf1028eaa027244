"""The user's object: a frozen LMM whose words are grounded in the picture, by a head or without."""

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Unpack

from flmm.answers.answer import Answer
from flmm.errors import InputError
from flmm.grounding.attention_view import AttentionView, attend
from flmm.grounding.chain_of_thought import CropMode, LocateSource, ThinkOptions, Thought, think
from flmm.grounding.chat_options import ChatKeywords, ChatOptions, Question
from flmm.grounding.conversation import ChatMessage, Pictures
from flmm.grounding.given_text import ground
from flmm.grounding.grounder_models import GrounderModels
from flmm.grounding.mask_options import MaskKeywords, MaskOptions
from flmm.grounding.phrase_extraction import PhraseSource
from flmm.grounding.pipeline import GenerationRequest
from flmm.grounding.referring import segment_together
from flmm.grounding.streaming import AnswerStream, StreamEvent
from flmm.pictures.reading import PictureLike


class Grounder(GrounderModels):
    """A frozen LMM: answers about pictures, with the masks of their phrases.

    ``GrounderModels`` has what it is made of.
    """

    def chat(
        self,
        image: Pictures | None,
        question: str,
        phrases: Sequence[str] | None = None,
        *,
        history: Sequence[ChatMessage] = (),
        system: str | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
        phrase_source: PhraseSource | None = None,
        **mask_options: Unpack[MaskKeywords],
    ) -> Answer:
        """Ask the LMM and ground its answer.

        Args:
            image: a file, its bytes, a PIL image, or a uint8 array (``PictureLike``), or a list of
                several; each phrase is grounded in the one that it is about. Shown with the talk's
                first message, or with the question if ``history`` has pictures; it may be None
                then.
            question: about the pictures.
            phrases: what to ground, as it stands in the answer; one that is repeated means
                its next mention. None lets ``phrase_source`` choose.
            history: the messages before the question, in transformers' chat format: dicts of
                "role" and "content" (``flmm.grounding.conversation.ChatMessage``).
            system: the system prompt.
            max_new_tokens: the answer is cut there.
            temperature: 0 takes the likeliest token at every step; above, tokens are sampled.
            seed: of sampling; the same one gives the same answer, None another one each time.
            phrase_source: what chooses the phrases; None for the head's selector if it has one.
            mask_options: those of ``MaskOptions``, such as ``refine`` and ``min_score``.

        Returns:
            The answer, exactly as the LMM alone generates it, and its grounded phrases.

        Raises:
            InputError: a picture cannot be read, a text or the list is empty, a message is not in
                the format, a phrase is not in the answer, or the LMM takes no messages before
                the question or no several pictures.
        """
        options = ChatOptions.from_keywords(
            history=history,
            system=system,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            phrase_source=phrase_source,
            **mask_options,
        )
        return self.pipeline.run(self._prepare(image, question, phrases, options))

    def chat_together(
        self, questions: Sequence[Question], **options: Unpack[ChatKeywords]
    ) -> list[Answer]:
        """Chat about several pictures at once, all answers generated in one batch.

        Args:
            questions: (image, question) or (image, question, history), each as in ``chat``; as many
                as the device's memory has room for.
            options: those of ``chat``; ``history`` is that of questions without their own.

        Returns:
            What ``chat`` gives for each, but for rounding: sums run in another order with others,
            which at half precision can decide a near tie between two tokens differently.

        Raises:
            InputError: as ``chat`` does, for any of them.
        """
        shared = ChatOptions.from_keywords(**options)
        requests = []
        for index, given in enumerate(questions):
            if len(given) not in (2, 3):
                raise InputError(
                    f"questions[{index}] has {len(given)} parts; give (picture, question), or with"
                    " the history as a third"
                )
            image, question, *own = given
            chat_options = replace(shared, history=own[0]) if own else shared
            requests.append(self._prepare(image, question, None, chat_options))
        return self.pipeline.run_batch(requests) if requests else []

    def stream(
        self,
        image: Pictures | None,
        question: str,
        phrases: Sequence[str] | None = None,
        **options: Unpack[ChatKeywords],
    ) -> Generator[StreamEvent, None, None]:
        """Chat and stream the answer: text as it is generated, masks as phrases are complete.

        A phrase that the selector chose is complete with the next word that is not part of it; a
        given one with its last token, or with the answer when it is only part of a word; noun
        chunks, and phrases of several pictures, are known with the answer. Close the generator to
        stop: the LMM stops at its current token. During generation other callers of the same LMM
        wait. The arguments are ``chat``'s.

        Returns:
            The events: ``TextEvent`` with each piece of text, ``PhraseEvent`` with each phrase and
            its mask, never before its text, and at last an ``AnswerEvent`` with what ``chat``
            returns. (Its masks are all predicted in one batch. Those streamed before may differ
            from them: with a head by rounding; without, since the rest of the text was unknown.)

        Raises:
            InputError: as ``chat`` does, or, of a phrase that is not in the answer, during reading.
        """
        chat_options = ChatOptions.from_keywords(**options)
        request = self._prepare(image, question, phrases, chat_options)
        return AnswerStream(self.pipeline, request).events()

    def _prepare(
        self,
        image: Pictures | None,
        question: str,
        phrases: Sequence[str] | None,
        options: ChatOptions,
    ) -> GenerationRequest:
        extractor = self.pipeline.create_phrase_extractor(phrases, options.phrase_source)
        return self.pipeline.prepare_request(image, question, extractor, options)

    def attend(
        self,
        image: PictureLike,
        question: str,
        words: Sequence[str] | None = None,
        *,
        answer: str | None = None,
        max_new_tokens: int = 256,
    ) -> AttentionView:
        """Return the attention maps of an answer's words; no head or SAM is used.

        Args:
            image, question: as in ``chat``.
            words: words or phrases of the answer, as they stand there; one that is repeated means
                its next mention. None for every word.
            answer: a caption or answer to trace; None lets the LMM generate one.
            max_new_tokens: a generated answer is cut there.

        Raises:
            InputError: the picture cannot be read, a text is empty, or a word is not in the answer.
        """
        return attend(self.pipeline, image, question, words, answer, max_new_tokens)

    def think(
        self,
        image: PictureLike,
        question: str,
        *,
        locate: LocateSource = "answer",
        crop: CropMode = "box",
        margin: float = 0.25,
        seed: int = 0,
        first_question: str | None = None,
        phrase_source: PhraseSource | None = None,
        max_new_tokens: int = 256,
        **mask_options: Unpack[MaskKeywords],
    ) -> Thought:
        """Locate a phrase, show the LMM its crop, and answer (visual chain of thought).

        The LMM is asked twice: about the picture, and about the picture and the crop of what was
        located, as two pictures in one conversation.

        Args:
            image, question, mask_options: as in ``chat``.
            locate, crop, margin, seed, first_question, phrase_source: as in ``ThinkOptions``.
            max_new_tokens: both answers are cut there.

        Raises:
            InputError: the picture cannot be read, the question is empty, an option is unknown, or
                the LMM cannot be shown two pictures.
        """
        options = ThinkOptions(locate, crop, margin, seed, first_question, phrase_source)
        masks = MaskOptions(**mask_options)
        return think(self.pipeline, image, question, options, max_new_tokens, masks)

    def ground(
        self,
        image: PictureLike,
        text: str,
        phrases: Sequence[str] | None = None,
        *,
        question: str | None = None,
        phrase_source: PhraseSource | None = None,
        **mask_options: Unpack[MaskKeywords],
    ) -> Answer:
        """Ground a given text about a picture, such as a caption; the answer's text is that text.

        The text is read as the LMM's answer, in one forward pass; nothing is generated.

        Args:
            image, phrases, phrase_source, mask_options: as in ``chat``, of the text.
            text: a caption or answer.
            question: what the text answers; None for the head's question for a caption, or flmm's.

        Raises:
            InputError: the picture cannot be read, the text or the list is empty, or a phrase is
                not in the text.
        """
        masks = MaskOptions(**mask_options)
        return ground(self.pipeline, image, text, phrases, question, phrase_source, masks)

    def segment(
        self, image: PictureLike, phrases: Sequence[str], **mask_options: Unpack[MaskKeywords]
    ) -> Answer:
        """Segment what each phrase refers to (referring segmentation).

        Each phrase begins the answer to a prompt of its own; nothing is generated.

        Args:
            image, mask_options: as in ``chat``.
            phrases: such as "the cat on the left".

        Returns:
            An answer whose text is the phrases, without outer blanks, joined by ", ".

        Raises:
            InputError: the picture cannot be read, or there is no phrase or an empty one.
        """
        return self.segment_together([(image, phrases)], **mask_options)[0]

    def segment_together(
        self,
        tasks: Sequence[tuple[PictureLike, Sequence[str]]],
        **mask_options: Unpack[MaskKeywords],
    ) -> list[Answer]:
        """Segment phrases in several pictures at once: (image, phrases) of ``segment`` each.

        Raises:
            InputError: as ``segment`` does, for any of them.
        """
        return segment_together(self.pipeline, tasks, MaskOptions(**mask_options))
