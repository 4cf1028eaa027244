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

from flmm.answers.answer import as_png, save_drawing
from flmm.answers.heatmap import Panel, draw_heat, panel_size
from flmm.answers.json_types import AttentionContent
from flmm.attention.spans import span_at, spans_for, token_offsets
from flmm.attention.trace import WordImageAttention
from flmm.attention.tracing import trace_generation, trace_text
from flmm.errors import InputError
from flmm.grounding.pipeline import Pipeline
from flmm.lmm.prompt import Prompt
from flmm.masks.selector import WORD
from flmm.pictures.geometry import maps_on_picture
from flmm.pictures.reading import Picture, read_picture
from flmm.stopwatch import Stopwatch
from flmm.types import ImageGeometry, PhraseSpan
from flmm.user_input import check_limit, check_phrases, check_text

_COLUMNS = 5
_PAIRED_COLUMNS = 4


@dataclass(frozen=True, eq=False)
class AttendedWord:
    """A word of a text and the attention that its tokens paid to the picture."""

    text: str
    start: int
    """In code points of the text."""
    end: int
    """One past the last code point."""
    tokens: tuple[int, ...]
    """Which of the text's tokens."""
    attention: WordImageAttention = field(repr=False)
    """Of all tokens of the text."""

    @property
    def maps(self) -> NDArray[np.float32]:
        """(M, N, h, w), in 0..1: the mean over the word's tokens, made anew at each call.

        Each map sums to the share of its head's attention that was on the picture (paper section
        3.1). A tiled LMM has 2·M in the place of M: the coarse view's maps, then the fine ones.
        """
        heads = self.attention.rows.blocks[0].levels.shape[2]
        merged = self.attention.of_phrase(self.tokens)
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
class AttendedText:
    """A text about a picture, and where the model looked with its words."""

    question: str
    text: str
    """What the LMM said, or was made to say."""
    lmm: str
    """The LMM's folder or hub id."""
    words: tuple[AttendedWord, ...]
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
                on_picture = maps_on_picture(heat, self.geometry, size)[0].numpy()
                note = _name(*chosen) if len(choices) > 1 else ""
                panels.append(Panel(word.text, note, on_picture))
        heading = (self.question, "mean over layers and heads")
        return draw_heat(self.picture, heading, self.text, panels, columns)

    def save(self, path: str | Path, layer: int | None = None, head: int | None = None) -> None:
        """Writes the figure, in the format that the file name's ending says.

        Raises:
            InputError: there is no such layer or head, or the file cannot be written.
        """
        save_drawing(self.figure(layer, head), path)

    def to_dict(self, layer: int | None = None, head: int | None = None) -> AttentionContent:
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
        return as_png(self.figure())


@torch.no_grad()
def attend(
    pipeline: Pipeline,
    image: Picture,
    question: str,
    words: Sequence[str] | None,
    answer: str | None,
    max_new_tokens: int,
) -> AttendedText:
    """See ``Grounder.attend``."""
    question = check_text("question", question)
    words = None if words is None else check_phrases(words)
    answer = None if answer is None else check_text("answer", answer).strip()
    check_limit(max_new_tokens)
    watch = Stopwatch()
    with watch.stage("picture"):
        picture = read_picture(image)
        prompt = pipeline.adapter.prepare(picture, question, answer)
    text, found, attention = _read(pipeline, prompt, words, max_new_tokens, watch)
    attended = tuple(
        AttendedWord(span.text, span.start, span.end, span.tokens, attention) for span in found
    )
    return AttendedText(
        question, text, pipeline.lmm, attended, attention.geometry, watch.seconds, picture
    )


def _read(
    pipeline: Pipeline,
    prompt: Prompt,
    words: Sequence[str] | None,
    max_new_tokens: int,
    watch: Stopwatch,
) -> tuple[str, list[PhraseSpan], WordImageAttention]:
    """The answer, its words, and the attention of its tokens."""
    adapter = pipeline.adapter
    if prompt.answer is not None and prompt.answer_offsets is not None:
        with watch.stage("read"):
            trace = trace_text(adapter, prompt)
        text, offsets = prompt.answer, prompt.answer_offsets
    else:
        with watch.stage("generate"):
            trace, text = trace_generation(adapter, prompt, max_new_tokens)
        offsets = token_offsets(adapter.tokenizer, trace.token_ids, text)
    if words is not None:
        return text, spans_for(text, words, offsets), trace.picture
    found = [span_at(text, *word.span(), offsets) for word in WORD.finditer(text)]
    return text, found, trace.picture


def _name(layer: int | None, head: int | None) -> str:
    named = [f"{kind} {index}" for kind, index in (("layer", layer), ("head", head))
             if index is not None]  # fmt: skip
    return ", ".join(named) or "mean"
