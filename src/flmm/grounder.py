"""The user's object: a frozen LMM and a head that shows where in the picture its words are.

Letters: ``M`` layers, ``T`` tokens of an answer, ``P`` phrases, ``H W`` picture size.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.utils.quantization_config import QuantizationConfigMixin

from flmm import checkpoint
from flmm.answer import Answer, Phrase
from flmm.attention.noun_chunks import noun_chunks
from flmm.attention.recorder import trace_generation, trace_texts
from flmm.attention.spans import span_at, spans_for, token_offsets
from flmm.attention.trace import Trace
from flmm.errors import InputError
from flmm.geometry import cut_to_picture, mask_box, resize_to_picture
from flmm.lmm import load_lmm
from flmm.lmm.base import LMMAdapter
from flmm.lmm.placement import DeviceMap, Placement
from flmm.masks.selector import select_phrases
from flmm.model import GroundingHead
from flmm.pictures import Picture, read_picture
from flmm.remembered import Remembered
from flmm.types import PhraseSpan
from flmm.user_input import (
    EMBEDDED_HEAD,
    asked_for,
    check_phrases,
    check_text,
    find_device,
    find_dtype,
    find_folder,
    find_lmm,
)

PhraseSource = Literal["selector", "noun_chunks"]
"""Who says which words of an answer are grounded: the head's classifier, or spaCy's grammar."""

_SEQUENCES_A_BATCH = 8
# Logits at picture size are made for so many phrases at a time that they stay below 128 MiB.
_LOGITS_AT_ONCE = 2**25

_Said = tuple[PhraseSpan, Trace]
"""A phrase, and the trace of the answer that its tokens are counted in."""


@dataclass
class _Stopwatch:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


class Grounder:
    """Answers questions about a picture and shows where the answer's words are in it.

    Args:
        adapter: the LMM; it stays as it is.
        head: made for an LMM of these sizes; moved to the LMM's device, in float32.
        model: the head's name in answers.
        lmm: the LMM's name in answers; None for the adapter's own.

    Raises:
        InputError: the head was made for an LMM of other sizes.
    """

    def __init__(
        self, adapter: LMMAdapter, head: GroundingHead, *, model: str = "", lmm: str | None = None
    ) -> None:
        checkpoint.check_matches(head.config, adapter)
        self.adapter = adapter
        self.head = head.to(adapter.device, torch.float32).eval()
        self.model = model
        self.lmm = adapter.name if lmm is None else lmm
        self._embeddings: Remembered[Tensor] = Remembered()

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
        """Loads a head and its LMM.

        Args:
            head: a folder or hub id; None for the small model that comes with the package.
            lmm: a folder or hub id; None for the one that the head was trained on.
            device: such as "cpu" or "cuda:1"; None for the GPU when there is one.
            dtype: of the LMM: "float32", "bfloat16" or "float16"; None for float32 on the CPU
                and the checkpoint's own on a GPU.
            revision: of the head's hub id.
            device_map: in the place of ``device``: "auto" or transformers' map, which spreads the
                LMM over devices (needs the package accelerate).
            quantization_config: one of transformers', such as ``BitsAndBytesConfig``, for an LMM
                of 4 or 8 bits a weight.

        Raises:
            InputError: either cannot be found or read, they do not belong together, or there is
                no such device or dtype.
        """
        name = str(head or EMBEDDED_HEAD)
        if device_map is None:
            device = find_device(device)
        placement = Placement(device, find_dtype(dtype), device_map, quantization_config)
        trained = checkpoint.from_pretrained(find_folder(name), revision=revision)
        lmm, lmm_revision = find_lmm(name, trained.config, lmm)
        adapter = load_lmm(find_folder(lmm), placement, lmm_revision)
        return cls(adapter, trained, model=name, lmm=lmm)

    @torch.no_grad()
    def chat(
        self,
        image: Picture,
        question: str,
        phrases: Sequence[str] | None = None,
        *,
        max_new_tokens: int = 256,
        phrase_source: PhraseSource | None = None,
        refine: bool = True,
    ) -> Answer:
        """Asks the LMM and grounds its answer.

        Args:
            image: a file, a PIL image, or an (H, W, 3) uint8 array.
            question: about the picture.
            phrases: what to ground, as it stands in the answer; one that is listed again means
                its next mention. None lets ``phrase_source`` choose.
            max_new_tokens: the answer is cut there.
            phrase_source: who chooses; None for the head's selector when it has one.
            refine: False leaves out the mask refiner (faster, coarser).

        Returns:
            The answer, exactly as the LMM alone gives it, and its grounded phrases.

        Raises:
            InputError: the picture cannot be read, the question or the list is empty, or a phrase
                is not in the answer.
        """
        question = check_text("question", question)
        if phrases is not None:
            phrases = check_phrases(phrases)
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {max_new_tokens}; give at least 1")
        watch = _Stopwatch()
        with watch.stage("picture"):
            picture = read_picture(image)
            prompt = self.adapter.prepare(picture, question)
        with watch.stage("generate"):
            trace, text = trace_generation(self.adapter, prompt, max_new_tokens)
        with watch.stage("phrases"):
            spans = self._spans(trace, text, phrases, phrase_source)
        found = self._ground(picture, [(span, trace) for span in spans], refine, watch)
        return self._answer(picture, text, found, watch)

    @torch.no_grad()
    def segment(self, image: Picture, phrases: Sequence[str], *, refine: bool = True) -> Answer:
        """Finds what each phrase refers to (referring segmentation).

        Each phrase is asked for alone, in a sequence of its own, and put in the LMM's mouth as the
        beginning of its answer; nothing is generated.

        Args:
            image: a file, a PIL image, or an (H, W, 3) uint8 array.
            phrases: such as "the cat on the left".
            refine: False leaves out the mask refiner (faster, coarser).

        Returns:
            An answer whose text is the phrases, without outer blanks, joined by ", ".

        Raises:
            InputError: the picture cannot be read, or there is no phrase or an empty one.
        """
        phrases = check_phrases(phrases)
        watch = _Stopwatch()
        with watch.stage("picture"):
            picture = read_picture(image)
            prompts = [
                self.adapter.prepare(picture, *asked_for(phrase, self.head.config))
                for phrase in phrases
            ]
        traces: list[Trace] = []
        with watch.stage("read"):
            for first in range(0, len(prompts), _SEQUENCES_A_BATCH):
                batch = prompts[first : first + _SEQUENCES_A_BATCH]
                traces.extend(trace_texts(self.adapter, batch))
        spans = []
        start = 0
        for phrase, trace in zip(phrases, traces, strict=True):
            tokens = tuple(range(len(trace.token_ids)))
            spans.append(PhraseSpan(phrase, start, start + len(phrase), tokens))
            start += len(phrase) + len(", ")
        found = self._ground(picture, list(zip(spans, traces, strict=True)), refine, watch)
        return self._answer(picture, ", ".join(phrases), found, watch)

    def _spans(
        self,
        trace: Trace,
        text: str,
        phrases: Sequence[str] | None,
        source: PhraseSource | None,
    ) -> list[PhraseSpan]:
        """The phrases of an answer that shall be grounded."""
        offsets = token_offsets(self.adapter.tokenizer, trace.token_ids, text)
        if phrases is not None:
            return spans_for(text, phrases, offsets)
        if source is None:
            source = "noun_chunks" if self.head.selector is None else "selector"
        if source == "selector":
            logits = self.head.keyword_logits(trace.hidden_states)
            found = select_phrases(text, offsets, logits, self.head.config.selector_threshold)
        elif source == "noun_chunks":
            found = noun_chunks(text)
        else:
            raise InputError(f"phrase_source is {source!r}; choose 'selector' or 'noun_chunks'")
        return [span_at(text, start, end, offsets) for start, end in found]

    def _ground(
        self, picture: Image.Image, said: Sequence[_Said], refine: bool, watch: _Stopwatch
    ) -> tuple[Phrase, ...]:
        embeddings = None
        if refine and said:
            with watch.stage("picture embedding"):
                embeddings = self._embed(picture)
        at_once = max(_LOGITS_AT_ONCE // (picture.width * picture.height), 1)
        phrases: list[Phrase] = []
        with watch.stage("masks"):
            for first in range(0, len(said), at_once):
                chosen = said[first : first + at_once]
                logits = self._logits(chosen, embeddings).cpu()
                phrases.extend(
                    _phrase(span, mask) for (span, _), mask in zip(chosen, logits, strict=True)
                )
        return tuple(phrases)

    def _logits(self, said: Sequence[_Said], embeddings: Tensor | None) -> Tensor:
        """(P, H, W) logits, from the mask decoder alone where no embeddings are given."""
        config, geometry = self.head.config, said[0][1].geometry
        attention = torch.stack(
            [
                config.keep(trace.picture.of_phrase(span.tokens, config.merge))
                for span, trace in said
            ]
        )
        if embeddings is None:
            decoded = self.head.mask_decoder(attention)[:, 0]
            return resize_to_picture(cut_to_picture(decoded, geometry), geometry)
        states = [trace.hidden_states[:, list(span.tokens)] for span, trace in said]
        refined: Tensor = self.head(attention, states, geometry, embeddings).refined_logits
        return refined

    def _embed(self, picture: Image.Image) -> Tensor:
        """SAM's embedding of the picture, remembered for the next questions about it."""
        key = blake2b(picture.tobytes(), person=repr(picture.size).encode()[:16]).digest()
        return self._embeddings.get(key, lambda: self.head.refiner.encode(np.asarray(picture)))

    def _answer(
        self, picture: Image.Image, text: str, phrases: tuple[Phrase, ...], watch: _Stopwatch
    ) -> Answer:
        size = (picture.height, picture.width)
        return Answer(text, self.model, self.lmm, size, phrases, watch.seconds, picture)


def _phrase(span: PhraseSpan, logits: Tensor) -> Phrase:
    mask = logits > 0
    return Phrase(
        text=span.text,
        start=span.start,
        end=span.end,
        tokens=span.tokens,
        mask=mask.numpy(),
        box=mask_box(mask) or (0, 0, 0, 0),
        score=float(logits[mask].sigmoid().mean()) if mask.any() else 0.0,
    )
