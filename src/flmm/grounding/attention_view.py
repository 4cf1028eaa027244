"""The attention of a text's words to the picture (``Grounder.attend``).

Letters: ``M`` layers, ``N`` heads, ``h w`` image-token grid, ``H W`` picture size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from flmm.answers.heatmap import HeatmapPanel, draw_heatmaps, panel_size
from flmm.answers.image_files import encode_png, save_image
from flmm.answers.json_types import AttentionViewJson
from flmm.answers.notebook import build_image, build_titled_paragraph
from flmm.attention.spans import compute_token_offsets, find_phrase_spans, make_phrase_span
from flmm.attention.trace import PictureAttention
from flmm.attention.tracing import trace_generation, trace_text
from flmm.errors import InputError
from flmm.grounding.pipeline import Pipeline
from flmm.lmm.places import check_places
from flmm.lmm.prompt import Prompt
from flmm.masks.selector import WORD_PATTERN
from flmm.pictures.geometry import resize_maps_to_picture
from flmm.pictures.reading import PictureLike, read_picture
from flmm.stopwatch import Stopwatch
from flmm.types import ImageGeometry, PhraseSpan
from flmm.user_input import check_max_new_tokens, check_phrases, check_text

_COLUMNS = 5
_PAIRED_COLUMNS = 4


@dataclass(frozen=True, eq=False)
class WordAttention:
    """A word of a text and the attention of its tokens to the picture."""

    text: str
    start: int
    """First code point in the text."""
    end: int
    """One past the last code point."""
    tokens: tuple[int, ...]
    """Indices of its tokens in the text."""
    text_attention: PictureAttention = field(repr=False)
    """Attention of all tokens of the text."""

    @property
    def maps(self) -> NDArray[np.float32]:
        """(M, N, h, w), in 0..1: the mean over the word's tokens, computed at each access.

        Each map sums to the share of its head's attention that was on the picture (paper section
        3.1). A tiled LMM has 2·M instead of M: the coarse view's maps, then the fine ones.
        """
        heads = self.text_attention.rows.blocks[0].quantized.shape[2]
        merged = self.text_attention.phrase_maps(self.tokens)
        maps: NDArray[np.float32] = merged.reshape(-1, heads, *merged.shape[1:]).cpu().numpy()
        return maps

    def map(self, layer: int | None = None, head: int | None = None) -> NDArray[np.float32]:
        """Return one layer's and head's (h, w) map; None means the mean over all of them.

        Raises:
            InputError: there is no such layer or head.
        """
        maps = self.maps
        for name, index, count in (("layer", layer, len(maps)), ("head", head, maps.shape[1])):
            if index is not None and not 0 <= index < count:
                raise InputError(f"{name} {index} is not in 0..{count - 1}; choose one of these")
        layers = maps if layer is None else maps[layer : layer + 1]
        heads = layers if head is None else layers[:, head : head + 1]
        mean: NDArray[np.float32] = heads.mean(axis=(0, 1))
        return mean


@dataclass(frozen=True, eq=False)
class AttentionView:
    """A text about a picture and the attention of its words to the picture."""

    question: str
    text: str
    """The answer that the LMM generated or was given."""
    lmm: str
    """The LMM's folder or hub id."""
    words: tuple[WordAttention, ...]
    geometry: ImageGeometry
    """Where the picture lies on the canvas that the maps' grid covers."""
    timings: dict[str, float]
    """Seconds by stage."""
    picture: Image.Image = field(repr=False)
    """RGB, as the image processor received it."""

    def figure(self, layer: int | None = None, head: int | None = None) -> Image.Image:
        """Draw a panel for each word: its mean map as a heatmap over the picture (RGB).

        Where a layer, a head or both are given, a second panel beside each shows their map.
        Colours are scaled to each map's own maximum.

        Raises:
            InputError: there is no such layer or head.
        """
        selections: list[tuple[int | None, int | None]] = [(None, None)]
        if layer is not None or head is not None:
            selections.append((layer, head))
        columns = min(_COLUMNS, len(self.words)) if len(selections) == 1 else _PAIRED_COLUMNS
        columns = max(columns, 2)
        size = panel_size(self.picture, columns)
        panels = []
        for word in self.words:
            for selection in selections:
                heat = torch.from_numpy(word.map(*selection))[None]
                on_picture = resize_maps_to_picture(heat, self.geometry, size)[0].numpy()
                note = _map_label(*selection) if len(selections) > 1 else ""
                panels.append(HeatmapPanel(word.text, note, on_picture))
        heading = (self.question, "mean over layers and heads")
        return draw_heatmaps(self.picture, heading, self.text, panels, columns)

    def save(self, path: str | Path, layer: int | None = None, head: int | None = None) -> None:
        """Write the figure, in the format that the file name's suffix names.

        Raises:
            InputError: there is no such layer or head, or the file cannot be written.
        """
        save_image(self.figure(layer, head), path)

    def to_dict(self, layer: int | None = None, head: int | None = None) -> AttentionViewJson:
        """Return JSON content with each word's mean map, or that of a layer, a head or both.

        Raises:
            InputError: there is no such layer or head.
        """
        maps = [word.map(layer, head) for word in self.words]
        return {
            "question": self.question,
            "text": self.text,
            "lmm": self.lmm,
            "size": list(self.geometry.picture),
            "grid": list(self.geometry.grid),
            "layer": layer,
            "head": head,
            "words": [
                {
                    "text": word.text,
                    "start": word.start,
                    "end": word.end,
                    "on_picture": round(float(heatmap.sum()), 4),
                    "map": [[round(value, 6) for value in row] for row in heatmap.tolist()],
                }
                for word, heatmap in zip(self.words, maps, strict=True)
            ],
            "timings": {stage: round(seconds, 4) for stage, seconds in self.timings.items()},
        }

    def _repr_png_(self) -> bytes:
        return encode_png(self.figure())

    def _repr_html_(self) -> str:
        words = ", ".join(word.text for word in self.words)
        return (
            build_titled_paragraph("question", self.question)
            + build_titled_paragraph("answer", self.text)
            + build_image(self.figure(), f"where the model looked with each of: {words}")
        )


@torch.no_grad()
def attend(
    pipeline: Pipeline,
    image: PictureLike,
    question: str,
    words: Sequence[str] | None,
    answer: str | None,
    max_new_tokens: int,
) -> AttentionView:
    """See ``Grounder.attend``."""
    check_places(pipeline.adapter)
    question = check_text("question", question)
    words = None if words is None else check_phrases(words)
    answer = None if answer is None else check_text("answer", answer).strip()
    check_max_new_tokens(max_new_tokens)
    stopwatch = Stopwatch()
    with stopwatch.stage("picture"):
        picture = read_picture(image)
        prompt = pipeline.adapter.build_prompt(picture, question, answer)
    text, spans, attention = _trace_words(pipeline, prompt, words, max_new_tokens, stopwatch)
    return AttentionView(
        question=question,
        text=text,
        lmm=pipeline.lmm_name,
        words=tuple(
            WordAttention(span.text, span.start, span.end, span.tokens, attention) for span in spans
        ),
        geometry=attention.geometry,
        timings=stopwatch.timings,
        picture=picture,
    )


def _trace_words(
    pipeline: Pipeline,
    prompt: Prompt,
    words: Sequence[str] | None,
    max_new_tokens: int,
    stopwatch: Stopwatch,
) -> tuple[str, list[PhraseSpan], PictureAttention]:
    """Return the answer, its words' spans, and the attention of its tokens."""
    adapter = pipeline.adapter
    if prompt.answer is not None and prompt.answer_offsets is not None:
        with stopwatch.stage("read"):
            trace = trace_text(adapter, prompt)
        text, offsets = prompt.answer, prompt.answer_offsets
    else:
        with stopwatch.stage("generate"):
            trace, text = trace_generation(adapter, prompt, max_new_tokens)
        offsets = compute_token_offsets(adapter.tokenizer, trace.token_ids, text)
    if words is not None:
        return text, find_phrase_spans(text, words, offsets), trace.picture_attention
    spans = [
        make_phrase_span(text, word.start(), word.end(), offsets)
        for word in WORD_PATTERN.finditer(text)
    ]
    return text, spans, trace.picture_attention


def _map_label(layer: int | None, head: int | None) -> str:
    parts = [f"{kind} {index}" for kind, index in (("layer", layer), ("head", head))
             if index is not None]  # fmt: skip
    return ", ".join(parts) or "mean"
