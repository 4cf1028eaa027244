"""Masks in the formats that clients may ask for."""

import base64
import io

from PIL import Image

from flmm.answers.phrase import Phrase
from flmm.serve.common.request_models import MaskFormat
from flmm.serve.common.response_models import PhraseReply, PngMask, PolygonMask, RunLengthMask


def build_phrase_reply(phrase: Phrase, picture_index: int, mask_format: MaskFormat) -> PhraseReply:
    """Return a phrase's reply; ``picture_index`` counts the conversation's pictures from 0."""
    return PhraseReply(
        text=phrase.text,
        start=phrase.start,
        end=phrase.end,
        score=round(phrase.score, 4),
        box=phrase.box,
        area=phrase.area,
        mask=format_mask(phrase, mask_format),
        picture=picture_index,
    )


def format_mask(phrase: Phrase, mask_format: MaskFormat) -> RunLengthMask | PolygonMask | PngMask:
    """Return a phrase's mask in that format."""
    height, width = phrase.rle["size"]
    if mask_format == "polygon":
        rings = [ring for part in phrase.polygons() for ring in (part.exterior, *part.holes)]
        polygons = [ring.ravel().tolist() for ring in rings]
        return PolygonMask(size=(height, width), polygons=polygons)
    if mask_format == "png":
        return PngMask(size=(height, width), png=encode_png_url(Image.fromarray(phrase.mask)))
    return RunLengthMask(size=(height, width), counts=phrase.rle["counts"])


def encode_png_url(image: Image.Image) -> str:
    """Return a picture as a PNG data URL."""
    content = io.BytesIO()
    image.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
