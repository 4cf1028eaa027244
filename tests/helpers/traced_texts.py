"""Texts read by an LMM, and a tiny segmenter that keeps its prompts, for training-free masks."""

from collections.abc import Sequence

from PIL import Image
from tiny_head import scramble
from torch import Tensor

from flmm.attention.spans import find_phrase_spans
from flmm.attention.tracing import trace_texts
from flmm.lmm.base import LMMAdapter
from flmm.segmenters.prompts import PictureEmbeddings, SegmenterMasks, SegmenterPrompts
from flmm.segmenters.sam import SamSegmenter
from flmm.training_free.traced_text import TracedText
from flmm.types import Size


def trace_text_with_phrases(
    adapter: LMMAdapter, picture: Image.Image, text: str, phrases: Sequence[str]
) -> TracedText:
    """Return the text as the answer to a question, with these phrases of it."""
    prompt = adapter.build_prompt(picture, "what is it?", text)
    (trace,) = trace_texts(adapter, [prompt])
    assert prompt.answer_offsets is not None
    spans = find_phrase_spans(text, phrases, prompt.answer_offsets)
    return TracedText(picture, prompt, trace, tuple(spans))


class SpySegmenter(SamSegmenter):
    """A tiny segmenter that keeps the prompts and the masks of its last ``decode``."""

    prompts: SegmenterPrompts
    masks: SegmenterMasks
    multimask: bool

    def decode(
        self,
        embeddings: PictureEmbeddings,
        picture: Size,
        prompts: SegmenterPrompts,
        multimask: bool = False,
        picture_indices: Tensor | None = None,
    ) -> SegmenterMasks:
        self.prompts, self.multimask = prompts, multimask
        self.masks = super().decode(embeddings, picture, prompts, multimask, picture_indices)
        return self.masks


def build_spy_segmenter() -> SpySegmenter:
    """Build it with random weights large enough that prompts change its masks."""
    segmenter = SpySegmenter.build_tiny()
    scramble(segmenter)
    return segmenter.eval()
