"""From the phrases of an answer to their masks: the head at work on a picture.

Letters: ``M`` layers, ``T`` tokens of an answer, ``P`` phrases, ``H W`` picture size.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flmm.answers.answer import Phrase
from flmm.attention.trace import Trace
from flmm.head.model import GroundingHead
from flmm.lru_cache import Remembered
from flmm.masks.kmeans import coarse_mask
from flmm.pictures.geometry import cut_to_picture, mask_box, resize_to_picture
from flmm.stopwatch import Stopwatch
from flmm.types import PhraseSpan, Size

# Logits at picture size are made for so many phrases at a time that they stay below 128 MiB.
_LOGITS_AT_ONCE = 2**25

Said = tuple[PhraseSpan, Trace]
"""A phrase, and the trace of the answer that its tokens are counted in."""


@dataclass(frozen=True, eq=False)
class Shown:
    """Phrases about one picture."""

    said: Sequence[Said]
    embeddings: Tensor | None = None
    """The picture's, from ``PhraseMasks.embed``; None leaves out the mask refiner."""


MaskMethod = Literal["head", "kmeans"]
"""What makes the masks of the attention maps: the trained head, or, to compare with, clusters."""


class PhraseMasks:
    """A head that grounds phrases and remembers the pictures that its refiner saw last.

    Args:
        head: as it is.
        remembered: how many pictures.
    """

    def __init__(self, head: GroundingHead, remembered: int = 4) -> None:
        self._head = head
        self._embeddings: Remembered[Tensor] = Remembered(remembered)

    def ground(
        self,
        picture: Image.Image,
        said: Sequence[Said],
        refine: bool,
        watch: Stopwatch,
        method: MaskMethod = "head",
    ) -> tuple[Phrase, ...]:
        """The phrases with their masks, boxes and scores.

        Args:
            picture: RGB.
            said: phrases about that picture, each with the trace of its own answer.
            refine: False leaves out the mask refiner.
            watch: is told of the stages "picture embedding" and "masks".
            method: "kmeans" leaves out the head.
        """
        if method == "kmeans":
            with watch.stage("masks"):
                return tuple(_phrase(span, _clustered(span, trace)) for span, trace in said)
        embeddings = self.embed(picture, watch) if refine and said else None
        return self.decode(said, embeddings, watch)

    @torch.no_grad()
    def embed(self, picture: Image.Image, watch: Stopwatch) -> Tensor | None:
        """SAM's embedding of the picture, remembered for the next questions about it; None where
        the head does not refine."""
        if not self._head.config.refine:
            return None
        with watch.stage("picture embedding"):
            key = blake2b(picture.tobytes(), person=repr(picture.size).encode()[:16]).digest()
            make = functools.partial(self._head.refiner.encode, np.asarray(picture))
            return self._embeddings.get(key, make)

    def decode(
        self, said: Sequence[Said], embeddings: Tensor | None, watch: Stopwatch
    ) -> tuple[Phrase, ...]:
        """``ground`` with the picture's embedding at hand; None leaves out the mask refiner."""
        with watch.stage("masks"):
            return self.decode_each([Shown(said, embeddings)])[0]

    @torch.no_grad()
    def decode_each(self, shown: Sequence[Shown]) -> list[tuple[Phrase, ...]]:
        """The phrases of several pictures in one pass; each is what it would be alone.

        Args:
            shown: pictures of one geometry, all with embeddings or none.
        """
        every = [(index, *said) for index, one in enumerate(shown) for said in one.said]
        found: list[list[Phrase]] = [[] for _ in shown]
        at_once = phrases_at_once(every[0][2].geometry.picture) if every else 1
        for first in range(0, len(every), at_once):
            chosen = every[first : first + at_once]
            logits = self._logits(chosen, shown).cpu()
            for (index, span, _), mask in zip(chosen, logits, strict=True):
                found[index].append(_phrase(span, mask))
        return [tuple(phrases) for phrases in found]

    def _logits(
        self, said: Sequence[tuple[int, PhraseSpan, Trace]], shown: Sequence[Shown]
    ) -> Tensor:
        """(P, H, W) logits of phrases, each with the index of its picture."""
        config, geometry = self._head.config, said[0][2].geometry
        maps = [trace.picture.of_phrase(span.tokens, config.merge) for _, span, trace in said]
        attention = torch.stack([config.keep(one) for one in maps])
        seen = sorted({index for index, _, _ in said})
        embeddings = [one for index in seen if (one := shown[index].embeddings) is not None]
        if not embeddings:
            decoded = self._head.mask_decoder(attention)[:, 0]
            return resize_to_picture(cut_to_picture(decoded, geometry), geometry)
        states = [trace.hidden_states[:, list(span.tokens)] for _, span, trace in said]
        pictures = torch.tensor([seen.index(index) for index, _, _ in said])
        refined: Tensor = self._head(
            attention, states, geometry, torch.cat(embeddings), pictures.to(attention.device)
        ).refined_logits
        return refined


def phrases_at_once(picture: Size) -> int:
    """Of how many phrases the logits are made together at the picture's size: 128 MiB of them."""
    height, width = picture
    return max(_LOGITS_AT_ONCE // (height * width), 1)


def _clustered(span: PhraseSpan, trace: Trace) -> Tensor:
    """(H, W) logits of being in the attended cluster, between image tokens in proportion."""
    cluster = coarse_mask(trace.picture.of_phrase(span.tokens)).float()
    sides = cut_to_picture(2 * cluster[None] - 1, trace.geometry)
    return ((resize_to_picture(sides, trace.geometry)[0] + 1) / 2).logit(eps=1e-4)


def _phrase(span: PhraseSpan, logits: Tensor) -> Phrase:
    mask = logits > 0
    return Phrase(
        text=span.text,
        start=span.start,
        end=span.end,
        tokens=span.tokens,
        mask=mask.numpy(),
        box=mask_box(mask) or (0, 0, 0, 0),
        score=mask_score(logits),
    )


def mask_score(logits: Tensor) -> float:
    """How sure a mask is of itself, from (H, W) logits: the mean probability of its pixels.

    Those have more than 0.5 each; an empty mask has 0.
    """
    mask = logits > 0
    return float(logits[mask].sigmoid().mean()) if mask.any() else 0.0
