"""A look into the model: where in the picture its attention was with each word.

Letters: ``M`` layers, ``N`` heads, ``h w`` image-token grid, ``H W`` picture size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from flmm.answers.answer import encode_png, save_image
from flmm.answers.heatmap import HeatmapPanel, draw_heatmaps, panel_size
from flmm.answers.json_types import AttentionViewJson
from flmm.attention.spans import compute_token_offsets, find_phrase_spans, make_phrase_span
from flmm.attention.trace import PictureAttention
from flmm.attention.tracing import trace_generation, trace_text
from flmm.errors import InputError
from flmm.grounding.pipeline import Pipeline
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
    """A word of a text and the attention that its tokens paid to the picture."""

    text: str
    start: int
    """In code points of the text."""
    end: int
    """One past the last code point."""
    tokens: tuple[int, ...]
    """Which of the text's tokens."""
    text_attention: PictureAttention = field(repr=False)
    """Of all tokens of the text."""

    @property
    def maps(self) -> NDArray[np.float32]:
        """(M, N, h, w), in 0..1: the mean over the word's tokens, made anew at each call.

        Each map sums to the share of its head's attention that was on the picture (paper section
        3.1). A tiled LMM has 2·M in the place of M: the coarse view's maps, then the fine ones.
        """
        heads = self.text_attention.rows.blocks[0].quantized.shape[2]
        merged = self.text_attention.phrase_maps(self.tokens)
        maps: NDArray[np.float32] = merged.reshape(-1, heads, *merged.shape[1:]).cpu().numpy()
        return maps

    def map(self, layer: int | None = None, head: int | None = None) -> NDArray[np.float32]:
        """(h, w): one layer's and head's map; None means the mean over all of them.

        Raises:
            InputError: there is no such layer or head.
        """
        maps = self.maps
        for name, chosen, count in (("layer", layer, len(maps)), ("head", head, maps.shape[1])):
            if chosen is not None and not 0 <= chosen < count:
                raise InputError(f"{name} {chosen} is not in 0..{count - 1}; choose one of these")
        layers = maps if layer is None else maps[layer : layer + 1]
        heads = layers if head is None else layers[:, head : head + 1]
        mean: NDArray[np.float32] = heads.mean(axis=(0, 1))
        return mean


@dataclass(frozen=True, eq=False)
class AttentionView:
    """A text about a picture, and where the model looked with its words."""

    question: str
    text: str
    """What the LMM said, or was made to say."""
    lmm: str
    """The LMM's folder or hub id."""
    words: tuple[WordAttention, ...]
    geometry: ImageGeometry
    """Where the picture lies on the canvas that the maps' grid covers."""
    timings: dict[str, float]
    """Seconds by stage."""
    picture: Image.Image = field(repr=False)
    """RGB, as the model's image processor was given it."""

    def figure(self, layer: int | None = None, head: int | None = None) -> Image.Image:
        """RGB: a panel a word with its mean map as heat over the picture.

        A chosen layer, head or both have a second panel beside each. Colours are scaled to each
        map's own most.

        Raises:
            InputError: there is no such layer or head.
        """
        choices: list[tuple[int | None, int | None]] = [(None, None)]
        if layer is not None or head is not None:
            choices.append((layer, head))
        columns = min(_COLUMNS, len(self.words)) if len(choices) == 1 else _PAIRED_COLUMNS
        columns = max(columns, 2)
        size = panel_size(self.picture, columns)
        panels = []
        for word in self.words:
            for chosen in choices:
                heat = torch.from_numpy(word.map(*chosen))[None]
                on_picture = resize_maps_to_picture(heat, self.geometry, size)[0].numpy()
                note = _map_label(*chosen) if len(choices) > 1 else ""
                panels.append(HeatmapPanel(word.text, note, on_picture))
        heading = (self.question, "mean over layers and heads")
        return draw_heatmaps(self.picture, heading, self.text, panels, columns)

    def save(self, path: str | Path, layer: int | None = None, head: int | None = None) -> None:
        """Writes the figure, in the format that the file name's ending says.

        Raises:
            InputError: there is no such layer or head, or the file cannot be written.
        """
        save_image(self.figure(layer, head), path)

    def to_dict(self, layer: int | None = None, head: int | None = None) -> AttentionViewJson:
        """As JSON content, with each word's mean map, or the chosen layer's and head's.

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
                    "on_picture": round(float(one.sum()), 4),
                    "map": [[round(value, 6) for value in row] for row in one.tolist()],
                }
                for word, one in zip(self.words, maps, strict=True)
            ],
            "timings": {stage: round(seconds, 4) for stage, seconds in self.timings.items()},
        }

    def _repr_png_(self) -> bytes:
        return encode_png(self.figure())


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
    question = check_text("question", question)
    words = None if words is None else check_phrases(words)
    answer = None if answer is None else check_text("answer", answer).strip()
    check_max_new_tokens(max_new_tokens)
    watch = Stopwatch()
    with watch.stage("picture"):
        picture = read_picture(image)
        prompt = pipeline.adapter.build_prompt(picture, question, answer)
    text, found, attention = _trace_words(pipeline, prompt, words, max_new_tokens, watch)
    attended = tuple(
        WordAttention(span.text, span.start, span.end, span.tokens, attention) for span in found
    )
    return AttentionView(
        question, text, pipeline.lmm_name, attended, attention.geometry, watch.timings, picture
    )


def _trace_words(
    pipeline: Pipeline,
    prompt: Prompt,
    words: Sequence[str] | None,
    max_new_tokens: int,
    stopwatch: Stopwatch,
) -> tuple[str, list[PhraseSpan], PictureAttention]:
    """The answer, its words, and the attention of its tokens."""
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
    found = [make_phrase_span(text, *word.span(), offsets) for word in WORD_PATTERN.finditer(text)]
    return text, found, trace.picture_attention


def _map_label(layer: int | None, head: int | None) -> str:
    named = [f"{kind} {index}" for kind, index in (("layer", layer), ("head", head))
             if index is not None]  # fmt: skip
    return ", ".join(named) or "mean"
