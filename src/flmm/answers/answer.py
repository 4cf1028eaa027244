"""The answer that users get: the LMM's text and its phrases' masks in the picture.

Letters: ``H W`` picture size.
"""

import base64
import html
import io
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flmm.answers.json_types import AnswerJson, CocoDataset, CocoRLE, PhraseJson
from flmm.answers.overlay import draw_overlay
from flmm.answers.palette import phrase_colour, tint, to_hex
from flmm.atomic_write import check_folder_of, write_file_atomically
from flmm.errors import InputError

if TYPE_CHECKING:
    from flmm.types import Box, Size

OUTPUT_FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP",
    ".tif": "TIFF", ".tiff": "TIFF",
}  # fmt: skip
"""Pillow's names of the formats that overlays are saved in, by the file name's suffix."""


@dataclass(frozen=True, eq=False)
class Phrase:
    """A phrase of an answer and its mask in the picture."""

    text: str
    start: int
    """First code point in the answer's text."""
    end: int
    """One past the last code point."""
    tokens: tuple[int, ...]
    """Indices of its tokens in the answer; after ``Grounder.segment``, in the phrase's own."""
    mask: NDArray[np.bool_] = field(repr=False)
    """(H, W) bool."""
    box: "Box"
    """(x0, y0, x1, y1) in pixels, x1 and y1 exclusive; all 0 when the mask is empty."""
    score: float
    """In 0..1: the probability that the phrase is in the picture and the mask right, with an IoU
    above 0.5; without a calibrated head, the mean probability inside the mask. 0 when it is
    empty."""

    @property
    def area(self) -> int:
        """Pixels in the mask."""
        return int(self.mask.sum())

    def to_dict(self) -> PhraseJson:
        """Return the phrase as JSON content, without the tokens."""
        return {
            "text": self.text,
            "start": self.start,
            "end": self.end,
            "score": round(self.score, 4),
            "box": list(self.box),
            "area": self.area,
            "mask": encode_rle(self.mask),
        }


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer about a picture with its grounded phrases."""

    text: str
    """Exactly what the LMM alone generates; for ``Grounder.segment``, the given phrases, joined by
    commas."""
    model: str
    """The head's folder or hub id."""
    lmm: str
    """The LMM's folder or hub id."""
    size: "Size"
    """(H, W)."""
    phrases: tuple[Phrase, ...]
    timings: dict[str, float]
    """Seconds by stage, in the order in which the stages ran."""
    picture: Image.Image = field(repr=False)
    """RGB, as it was read: upright, without transparency."""

    def to_dict(self) -> AnswerJson:
        """Return the answer as JSON content, with masks as COCO's compressed run lengths."""
        return {
            "text": self.text,
            "model": self.model,
            "lmm": self.lmm,
            "size": list(self.size),
            "phrases": [phrase.to_dict() for phrase in self.phrases],
            "timings": {stage: round(seconds, 4) for stage, seconds in self.timings.items()},
        }

    def to_coco(self, file_name: str = "") -> CocoDataset:
        """Return a COCO instances data set: one picture, a category for each distinct phrase.

        Args:
            file_name: of the picture, in ``images``.
        """
        height, width = self.size
        names = list(dict.fromkeys(phrase.text for phrase in self.phrases))
        return {
            "images": [{"id": 1, "width": width, "height": height, "file_name": file_name}],
            "annotations": [
                {
                    "id": number,
                    "image_id": 1,
                    "category_id": names.index(phrase.text) + 1,
                    "segmentation": encode_rle(phrase.mask),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": phrase.area,
                    "iscrowd": 0,
                    "score": round(phrase.score, 4),
                }
                for number, phrase in enumerate(self.phrases, 1)
                for x0, y0, x1, y1 in [phrase.box]
            ],
            "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        }

    @cached_property
    def overlay(self) -> Image.Image:
        """RGB: the picture with the masks on it, and a legend."""
        return draw_overlay(self.picture, self.text, self.phrases)

    def save(self, path: str | Path) -> None:
        """Write the overlay, in the format that the file name's suffix names.

        The file is written completely or not at all.

        Raises:
            InputError: the suffix is none of ``OUTPUT_FORMATS``, its format cannot hold so large a
                picture, or the file cannot be written.
        """
        save_image(self.overlay, path)

    def _repr_png_(self) -> bytes:
        return encode_png(self.overlay)

    def _repr_html_(self) -> str:
        picture = base64.b64encode(self._repr_png_()).decode("ascii")
        return (
            f'<p style="white-space: pre-wrap">{self._marked_text()}</p>'
            f'<img alt="the picture with {len(self.phrases)} marked phrases" '
            f'style="max-width: 100%" src="data:image/png;base64,{picture}">'
        )

    def _marked_text(self) -> str:
        """Return the text as HTML, each phrase on its colour."""
        parts: list[str] = []
        done = 0
        numbered = sorted(enumerate(self.phrases), key=lambda pair: pair[1].start)
        for number, phrase in numbered:
            if phrase.start < done:
                continue  # overlaps one that is marked already
            colour = phrase_colour(number)
            style = (
                f"background: {to_hex(tint(colour, 0.3))}; color: #202124; "
                f"border-bottom: 3px solid {to_hex(colour)}"
            )
            parts.append(html.escape(self.text[done : phrase.start]))
            marked = html.escape(self.text[phrase.start : phrase.end])
            parts.append(f'<span style="{style}">{marked}</span>')
            done = phrase.end
        return "".join([*parts, html.escape(self.text[done:])])


def encode_rle(mask: NDArray[np.bool_]) -> CocoRLE:
    """Return an (H, W) bool mask as COCO's compressed run lengths."""
    from pycocotools import mask as coco

    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


def encode_png(image: Image.Image) -> bytes:
    """Return the content of a PNG file."""
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def save_image(image: Image.Image, path: str | Path) -> None:
    """Write an image, in the format that the file name's suffix names, completely or not at all.

    Raises:
        InputError: the suffix is none of ``OUTPUT_FORMATS``, its format cannot hold a picture this
            large, or the file cannot be written.
    """
    kind = check_output_path(path)
    content = io.BytesIO()
    try:
        image.save(content, kind, quality=92)
    except (OSError, ValueError) as error:
        width, height = image.size
        raise InputError(
            f"{kind} cannot hold {width} x {height} pixels; save {str(path)!r} as .png"
        ) from error
    write_file_atomically(Path(path), content.getvalue())


def check_output_path(path: str | Path) -> str:
    """Check that an overlay can be saved there, before the work is done.

    Returns:
        Pillow's name of the format.

    Raises:
        InputError: the name's suffix is unknown, or its folder is missing or not writable.
    """
    path = Path(path)
    kind = OUTPUT_FORMATS.get(path.suffix.lower())
    if os.path.isdir(path):
        raise InputError(f"{str(path)!r} is a folder; give a file name, such as overlay.png")
    if kind is None:
        raise InputError(
            f"{str(path)!r} has no ending that names a picture format; "
            f"choose one of {', '.join(OUTPUT_FORMATS)}"
        )
    check_folder_of(path)
    return kind
