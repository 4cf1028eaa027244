"""The user's object: a frozen LMM whose words are grounded in the picture, by a head or without."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Self, Unpack

import torch
from transformers.utils.quantization_config import QuantizationConfigMixin

from flmm.answers.answer import Answer
from flmm.grounding.attention_view import AttentionView, attend
from flmm.grounding.chain_of_thought import CropMode, LocateSource, ThinkOptions, Thought, think
from flmm.grounding.given_text import ground
from flmm.grounding.loading import check_together, load_models
from flmm.grounding.mask_options import MaskKeywords, MaskOptions
from flmm.grounding.phrase_extraction import PhraseSource
from flmm.grounding.pipeline import build_pipeline
from flmm.grounding.referring import segment
from flmm.grounding.streaming import AnswerStream, StreamEvent
from flmm.head.model import GroundingHead
from flmm.lmm.base import LMMAdapter
from flmm.lmm.placement import DeviceMap, Placement
from flmm.pictures.reading import PictureLike
from flmm.segmenters.base import Segmenter
from flmm.training_free.profile import Profile
from flmm.user_input import parse_dtype, resolve_device


class Grounder:
    """A frozen LMM: answers about pictures, with the masks of their phrases.

    Masks come from a trained head or, without one, from the LMM's attention and a segmenter. Both
    are moved to the LMM's device, in float32.

    Args:
        adapter: the LMM, which is not changed.
        head: trained for an LMM of these sizes; None needs no training.
        segmenter: the SAM of masks without a head; None makes these from attention alone.
        profile: of masks without a head, from ``flmm calibrate``; None needs none.
        model: the head's name in answers; None for "training-free" without a head.
        lmm: the LMM's name in answers; None for the adapter's own.

    Raises:
        InputError: the head or profile is for another LMM, or is given beside what it excludes.
    """

    def __init__(
        self,
        adapter: LMMAdapter,
        head: GroundingHead | None = None,
        segmenter: Segmenter | None = None,
        profile: Profile | None = None,
        *,
        model: str | None = None,
        lmm: str | None = None,
    ) -> None:
        check_together(adapter, head, segmenter, profile)
        for module in (head, segmenter):
            if module is not None:
                module.to(adapter.device, torch.float32).eval()
        self.adapter, self.head, self.segmenter, self.profile = adapter, head, segmenter, profile
        self.pipeline = build_pipeline(adapter, head, segmenter, profile, model, lmm)
        self.model, self.lmm = self.pipeline.model_name, self.pipeline.lmm_name

    @classmethod
    def from_pretrained(
        cls,
        head: str | Path | None = None,
        *,
        lmm: str | Path | None = None,
        sam: str | Path | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        device_map: DeviceMap | None = None,
        quantization_config: QuantizationConfigMixin | None = None,
    ) -> Self:
        """Load an LMM, with a head or without.

        Args:
            head: a folder or hub id, or a profile of ``flmm calibrate``; None for none if ``lmm``
                is given, else for the small model that comes with the package.
            lmm: a folder or hub id; None for the one that the head or profile is of.
            sam: a folder or hub id of the SAM of masks without a head, "none" for masks from
                attention alone; None for ``DEFAULT_SEGMENTER``. With a head, where its refiner's
                SAM comes from.
            device: such as "cpu" or "cuda:1"; None for the GPU when there is one.
            dtype: of the LMM: "float32", "bfloat16" or "float16"; None for float32 on the CPU
                and the checkpoint's own on a GPU.
            revision: of the head's or profile's hub id.
            device_map: instead of ``device``: "auto" or transformers' map, which spreads the
                LMM over devices (needs the package accelerate).
            quantization_config: one of transformers', such as ``BitsAndBytesConfig``, for an LMM
                of 4 or 8 bits a weight.

        Raises:
            InputError: a model cannot be found or read, they do not belong together, or there is
                no such device or dtype.
        """
        device = resolve_device(device) if device_map is None else device
        placement = Placement(device, parse_dtype(dtype), device_map, quantization_config)
        head, lmm, sam = (None if name is None else str(name) for name in (head, lmm, sam))
        parts = load_models(head, lmm, sam, placement, revision)
        return cls(*parts.models, model=parts.model, lmm=parts.lmm)

    def chat(
        self,
        image: PictureLike,
        question: str,
        phrases: Sequence[str] | None = None,
        *,
        max_new_tokens: int = 256,
        phrase_source: PhraseSource | None = None,
        **mask_options: Unpack[MaskKeywords],
    ) -> Answer:
        """Ask the LMM and ground its answer.

        Args:
            image: a file, its bytes, a PIL image, or a uint8 array (``PictureLike``).
            question: about the picture.
            phrases: what to ground, as it stands in the answer; one that is repeated means
                its next mention. None lets ``phrase_source`` choose.
            max_new_tokens: the answer is cut there.
            phrase_source: what chooses them; None for the head's selector if there is one.
            mask_options: those of ``MaskOptions``, such as ``refine`` and ``min_score``.

        Returns:
            The answer, exactly as the LMM alone generates it, and its grounded phrases.

        Raises:
            InputError: the picture cannot be read, the question or the list is empty, or a phrase
                is not in the answer.
        """
        masks = MaskOptions(**mask_options)
        extractor = self.pipeline.create_phrase_extractor(phrases, phrase_source)
        return self.pipeline.run(
            self.pipeline.prepare_request(image, question, extractor, max_new_tokens, masks)
        )

    def chat_together(
        self,
        questions: Sequence[tuple[PictureLike, str]],
        *,
        max_new_tokens: int = 256,
        phrase_source: PhraseSource | None = None,
        **mask_options: Unpack[MaskKeywords],
    ) -> list[Answer]:
        """Chat about several pictures at once, all answers generated in one batch.

        Args:
            questions: (image, question) pairs; as many as the device's memory has room for.
            max_new_tokens, phrase_source, mask_options: as in ``chat``.

        Returns:
            What ``chat`` gives for each, but for rounding: a padded batch sums in another order,
            which at half precision can decide a near tie between two tokens differently.

        Raises:
            InputError: as ``chat`` does, for any of them.
        """
        masks = MaskOptions(**mask_options)
        extractor = self.pipeline.create_phrase_extractor(None, phrase_source)
        requests = [
            self.pipeline.prepare_request(image, question, extractor, max_new_tokens, masks)
            for image, question in questions
        ]
        return self.pipeline.run_batch(requests) if requests else []

    def stream(
        self,
        image: PictureLike,
        question: str,
        phrases: Sequence[str] | None = None,
        *,
        max_new_tokens: int = 256,
        phrase_source: PhraseSource | None = None,
        **mask_options: Unpack[MaskKeywords],
    ) -> Generator[StreamEvent, None, None]:
        """Chat and stream the answer: text as it is generated, masks as phrases are complete.

        A phrase that the selector chose is complete with the next word that is not part of it; a
        given one with its last token, or with the answer when it is only part of a word; noun
        chunks are known with the answer. Close the generator to stop: the LMM stops at its current
        token. During generation other callers of the same LMM wait. The arguments are ``chat``'s.

        Returns:
            The events: ``TextEvent`` with each piece of text, ``PhraseEvent`` with each phrase and
            its mask, never before its text, and at last an ``AnswerEvent`` with what ``chat``
            returns. (Its masks are all predicted in one batch. Those streamed before may differ
            from them: with a head by rounding; without, since the rest of the text was unknown.)

        Raises:
            InputError: as ``chat`` does, or, of a phrase that is not in the answer, during reading.
        """
        masks = MaskOptions(**mask_options)
        extractor = self.pipeline.create_phrase_extractor(phrases, phrase_source)
        request = self.pipeline.prepare_request(image, question, extractor, max_new_tokens, masks)
        return AnswerStream(self.pipeline, request).events()

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
        return segment(self.pipeline, image, phrases, MaskOptions(**mask_options))
