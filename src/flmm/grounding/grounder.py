"""The user's object: a frozen LMM and a head that grounds its words in the picture.

Letters: ``M`` layers, ``N`` heads, ``h w`` image-token grid, ``H W`` picture size.
"""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Self

import torch
from transformers.utils.quantization_config import QuantizationConfigMixin

from flmm.answers.answer import Answer
from flmm.grounding.attention_view import AttentionView, attend
from flmm.grounding.chain_of_thought import CropMode, LocateSource, ThinkOptions, Thought, think
from flmm.grounding.given_text import ground
from flmm.grounding.mask_predictor import MaskPredictor
from flmm.grounding.phrase_extraction import PhraseSource
from flmm.grounding.pipeline import Pipeline
from flmm.grounding.referring import segment
from flmm.grounding.streaming import AnswerStream, StreamEvent
from flmm.head.checkpoint import check_compatible, load_head, resolve_lmm
from flmm.head.model import GroundingHead
from flmm.lmm.auto import load_lmm
from flmm.lmm.base import LMMAdapter
from flmm.lmm.placement import DeviceMap, Placement
from flmm.pictures.reading import PictureLike
from flmm.user_input import EMBEDDED_HEAD, parse_dtype, resolve_device, resolve_model


class Grounder:
    """A frozen LMM and a head: answers about pictures, with the masks of their phrases.

    Args:
        adapter: the LMM, which is not changed.
        head: trained for an LMM of these sizes; moved to the LMM's device, in float32.
        model: the head's name in answers.
        lmm: the LMM's name in answers; None for the adapter's own.

    Raises:
        InputError: the head is for an LMM of other sizes.
    """

    def __init__(
        self, adapter: LMMAdapter, head: GroundingHead, *, model: str = "", lmm: str | None = None
    ) -> None:
        check_compatible(head.config, adapter)
        self.adapter = adapter
        self.head = head.to(adapter.device, torch.float32).eval()
        self.model = model
        self.lmm = adapter.name if lmm is None else lmm
        self._pipeline = Pipeline(adapter, self.head, MaskPredictor(self.head), model, self.lmm)

    @classmethod
    def from_pretrained(
        cls,
        head: str | Path | None = None,
        *,
        lmm: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        device_map: DeviceMap | None = None,
        quantization_config: QuantizationConfigMixin | None = None,
    ) -> Self:
        """Load a head and its LMM.

        Args:
            head: a folder or hub id; None for the small model that comes with the package.
            lmm: a folder or hub id; None for the one that the head was trained on.
            device: such as "cpu" or "cuda:1"; None for the GPU when there is one.
            dtype: of the LMM: "float32", "bfloat16" or "float16"; None for float32 on the CPU
                and the checkpoint's own on a GPU.
            revision: of the head's hub id.
            device_map: instead of ``device``: "auto" or transformers' map, which spreads the
                LMM over devices (needs the package accelerate).
            quantization_config: one of transformers', such as ``BitsAndBytesConfig``, for an LMM
                of 4 or 8 bits a weight.

        Raises:
            InputError: either cannot be found or read, they do not belong together, or there is
                no such device or dtype.
        """
        name = str(head or EMBEDDED_HEAD)
        if device_map is None:
            device = resolve_device(device)
        placement = Placement(device, parse_dtype(dtype), device_map, quantization_config)
        trained = load_head(resolve_model(name), revision=revision)
        lmm, lmm_revision = resolve_lmm(name, trained.config, lmm)
        adapter = load_lmm(resolve_model(lmm), placement, lmm_revision)
        return cls(adapter, trained, model=name, lmm=lmm)

    def chat(
        self,
        image: PictureLike,
        question: str,
        phrases: Sequence[str] | None = None,
        *,
        max_new_tokens: int = 256,
        phrase_source: PhraseSource | None = None,
        refine: bool = True,
    ) -> Answer:
        """Ask the LMM and ground its answer.

        Args:
            image: a file, its bytes, a PIL image, or a uint8 array (``PictureLike``).
            question: about the picture.
            phrases: what to ground, as it stands in the answer; one that is repeated means
                its next mention. None lets ``phrase_source`` choose.
            max_new_tokens: the answer is cut there.
            phrase_source: what chooses them; None for the head's selector when it has one.
            refine: False leaves out the mask refiner (faster, coarser).

        Returns:
            The answer, exactly as the LMM alone generates it, and its grounded phrases.

        Raises:
            InputError: the picture cannot be read, the question or the list is empty, or a phrase
                is not in the answer.
        """
        pipeline = self._pipeline
        extractor = pipeline.create_phrase_extractor(phrases, phrase_source)
        return pipeline.run(
            pipeline.prepare_request(image, question, extractor, max_new_tokens, refine)
        )

    def chat_together(
        self,
        questions: Sequence[tuple[PictureLike, str]],
        *,
        max_new_tokens: int = 256,
        phrase_source: PhraseSource | None = None,
        refine: bool = True,
    ) -> list[Answer]:
        """Chat about several pictures at once, all answers generated in one batch.

        Args:
            questions: (image, question) pairs; as many as the device's memory has room for.
            max_new_tokens, phrase_source, refine: as in ``chat``.

        Returns:
            What ``chat`` gives for each, but for rounding: a padded batch sums in another order,
            which at half precision can decide a near tie between two tokens differently.

        Raises:
            InputError: as ``chat`` does, for any of them.
        """
        extractor = self._pipeline.create_phrase_extractor(None, phrase_source)
        requests = [
            self._pipeline.prepare_request(image, question, extractor, max_new_tokens, refine)
            for image, question in questions
        ]
        return self._pipeline.run_batch(requests) if requests else []

    def stream(
        self,
        image: PictureLike,
        question: str,
        phrases: Sequence[str] | None = None,
        *,
        max_new_tokens: int = 256,
        phrase_source: PhraseSource | None = None,
        refine: bool = True,
    ) -> Generator[StreamEvent, None, None]:
        """Chat and stream the answer: text as it is generated, masks as phrases are complete.

        A phrase that the selector chose is complete with the next word that is not part of it; a
        given one with its last token, or with the answer when it is only part of a word; noun
        chunks are known with the answer. Close the generator to stop: the LMM stops at its current
        token. During generation other callers of the same LMM wait.

        Args:
            image, question, phrases, max_new_tokens, phrase_source, refine: as in ``chat``.

        Returns:
            The events: ``TextEvent`` with each piece of text, ``PhraseEvent`` with each phrase and
            its mask, never before its text, and at last an ``AnswerEvent`` with what ``chat``
            returns. (Its masks are all predicted in one batch; those streamed before may differ
            from them by rounding.)

        Raises:
            InputError: as ``chat`` does, at the call or, where a phrase is not in the answer, while
                the events are read.
        """
        pipeline = self._pipeline
        extractor = pipeline.create_phrase_extractor(phrases, phrase_source)
        request = pipeline.prepare_request(image, question, extractor, max_new_tokens, refine)
        return AnswerStream(pipeline, request).events()

    def attend(
        self,
        image: PictureLike,
        question: str,
        words: Sequence[str] | None = None,
        *,
        answer: str | None = None,
        max_new_tokens: int = 256,
    ) -> AttentionView:
        """Return the attention maps (M, N, h, w) of an answer's words; the head is not used.

        Args:
            image: a file, its bytes, a PIL image, or a uint8 array (``PictureLike``).
            question: about the picture.
            words: words or phrases of the answer, as they stand there; one that is repeated means
                its next mention. None for every word.
            answer: a caption or answer to trace; None lets the LMM generate one.
            max_new_tokens: a generated answer is cut there.

        Raises:
            InputError: the picture cannot be read, a text is empty, or a word is not in the answer.
        """
        return attend(self._pipeline, image, question, words, answer, max_new_tokens)

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
        refine: bool = True,
    ) -> Thought:
        """Locate a phrase, show the LMM its crop, and answer (visual chain of thought).

        The LMM is asked twice: about the picture, and about the picture and the crop of what was
        located, as two pictures in one conversation.

        Args:
            image: a file, its bytes, a PIL image, or a uint8 array (``PictureLike``).
            question: about the picture.
            locate: "answer" grounds the model's first answer, "question" the question's own words
                (then nothing is generated before the second prompt).
            crop: "box" cuts out the mask's box; "mask" also makes all but the mask grey;
                "random", the control, cuts out a box of the same size at a random position.
            margin: added on each side of the box, in shares of its longer side; the box becomes a
                square as far as the picture reaches.
            seed: of the random box.
            first_question: of the first prompt, such as for an object's name; None for the
                question itself.
            phrase_source: what chooses the located phrases; None for the head's selector (if
                any) in an answer, and in a question for its noun chunks, an expression as one.
            max_new_tokens: both answers are cut there.
            refine: False leaves out the mask refiner (faster, coarser).

        Raises:
            InputError: the picture cannot be read, the question is empty, an option is unknown, or
                the LMM cannot be shown two pictures.
        """
        options = ThinkOptions(locate, crop, margin, seed, first_question, phrase_source)
        return think(self._pipeline, image, question, options, max_new_tokens, refine)

    def ground(
        self,
        image: PictureLike,
        text: str,
        phrases: Sequence[str] | None = None,
        *,
        question: str | None = None,
        phrase_source: PhraseSource | None = None,
        refine: bool = True,
    ) -> Answer:
        """Ground a given text about a picture, such as a caption; the answer's text is that text.

        The text is read as the LMM's answer, in one forward pass; nothing is generated.

        Args:
            image: a file, its bytes, a PIL image, or a uint8 array (``PictureLike``).
            text: a caption or answer.
            phrases, phrase_source, refine: as in ``chat``, of the text.
            question: what the text answers; None for the one that the head learned captions with.

        Raises:
            InputError: the picture cannot be read, the text or the list is empty, or a phrase is
                not in the text.
        """
        return ground(self._pipeline, image, text, phrases, question, phrase_source, refine)

    def segment(self, image: PictureLike, phrases: Sequence[str], *, refine: bool = True) -> Answer:
        """Segment what each phrase refers to (referring segmentation).

        Each phrase has a prompt of its own, with the phrase as the beginning of the answer; nothing
        is generated.

        Args:
            image: a file, its bytes, a PIL image, or a uint8 array (``PictureLike``).
            phrases: such as "the cat on the left".
            refine: False leaves out the mask refiner (faster, coarser).

        Returns:
            An answer whose text is the phrases, without outer blanks, joined by ", ".

        Raises:
            InputError: the picture cannot be read, or there is no phrase or an empty one.
        """
        return segment(self._pipeline, image, phrases, refine)
