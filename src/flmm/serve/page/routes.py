"""Routes of the web page: its static files, bundled pictures and configuration."""

import gzip
import io
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from fastapi import APIRouter, Request
from PIL import Image
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from flmm.answers.palette import (
    HEATMAP_COLOURS,
    PHRASE_COLOURS,
    contrasting_text_colour,
    phrase_colour,
    to_hex,
)
from flmm.grounding.mask_predictor import MaskPredictor
from flmm.grounding.pipeline import Pipeline
from flmm.serve.settings import Limits
from flmm.user_input import is_embedded

_STATIC = Path(__file__).parent / "static"
_PICTURES = Path(__file__).parents[2] / "assets" / "pictures"
_BUNDLED = ("demo.png", "wall.png", "sea.png", "snow.png")
"""The bundled pictures, in the order in which the page shows them; texts.js has their titles."""
_THUMBNAIL_SIDE = 320
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml", ".png": "image/png",
    ".webp": "image/webp",
}  # fmt: skip
_COLOUR_CYCLES = 5
"""After this many cycles of the palette, colours get no darker."""
# Only scripts of the page's own files, only requests to this server, no text parsed as markup: even
# a bug in the page cannot run the model's text as code.
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


class BundledPicture(BaseModel):
    """A picture that the page offers."""

    name: str
    url: str
    thumbnail: str
    """URL of a small copy."""


class PhraseColour(BaseModel):
    """A phrase's colour, and the colour of the number on it."""

    fill: str
    ink: str


class ComparedMethod(BaseModel):
    """A way to masks that the page shows beside others."""

    name: str
    note: str
    options: dict[str, str | bool] | None
    """Fields of a request for these masks; None for those that answers have."""


class PageConfig(BaseModel):
    """What the page loads first."""

    model: str
    """The head's name; without one, the LMM's."""
    comparison: list[ComparedMethod]
    is_embedded: bool
    """Whether the LMM is the embedded one, which knows only pictures such as the bundled ones."""
    earlier_turns: Literal["all", "referred"]
    """Which turns the LMM is told with a question: all, or the last one if that is meant ("it")."""
    max_pictures: int
    """Of a conversation."""
    max_pixels: int
    """Of a picture."""
    max_bytes: int
    """Of a request."""
    pictures: list[BundledPicture]
    colours: list[PhraseColour]
    """Of the phrases, in order; after the last cycle, that one repeats."""
    repeat: int
    """How many colours a cycle has."""
    heat: list[str]
    """Heatmap colours, from zero to the maximum."""


@dataclass(frozen=True)
class _StaticFile:
    media_type: str
    content: bytes
    gzipped: bytes
    etag: str

    @classmethod
    def read(cls, path: Path) -> "_StaticFile":
        return cls.hold(path.read_bytes(), path.suffix)

    @classmethod
    def hold(cls, content: bytes, suffix: str) -> "_StaticFile":
        etag = f'"{blake2b(content, digest_size=12).hexdigest()}"'
        return cls(_MEDIA_TYPES[suffix], content, gzip.compress(content, mtime=0), etag)

    def to_response(self, request: Request) -> Response:
        headers = {
            "cache-control": "no-cache",
            "content-security-policy": _CONTENT_SECURITY_POLICY,
            "etag": self.etag,
            "vary": "accept-encoding",
        }
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        content = self.content
        if "gzip" in request.headers.get("accept-encoding", "") and len(self.gzipped) < len(
            content
        ):
            headers["content-encoding"] = "gzip"
            content = self.gzipped
        return Response(content, media_type=self.media_type, headers=headers)


def create_page_router(pipeline: Pipeline, limits: Limits) -> APIRouter:
    """Return the routes of the page at ``/`` and its files below ``/page/``, read once."""
    router = APIRouter(include_in_schema=False)
    pictures = [_PICTURES / name for name in _BUNDLED]
    paths = [*_STATIC.iterdir(), *pictures]
    files = {path.name: _StaticFile.read(path) for path in paths if path.suffix in _MEDIA_TYPES}
    for path in pictures:
        thumbnail = path.with_suffix(".webp")
        files[thumbnail.name] = _StaticFile.hold(_encode_thumbnail(path), thumbnail.suffix)
    model = pipeline.model_name
    embedded = is_embedded(pipeline.lmm_name)
    config = PageConfig(
        model=model if pipeline.head is not None else f"{pipeline.lmm_name}, {model}",
        comparison=_list_compared_methods(pipeline.mask_predictor),
        is_embedded=embedded,
        # Trained on talks of one picture and two turns, it answers best without those it need not
        # know: docs/serving.md has the figures.
        earlier_turns="referred" if embedded else "all",
        max_pictures=1 if embedded else limits.pictures,
        max_pixels=limits.pixels,
        max_bytes=limits.body_bytes,
        pictures=[
            BundledPicture(
                name=path.name, url=f"/page/{path.name}", thumbnail=f"/page/{path.stem}.webp"
            )
            for path in pictures
        ],
        colours=[
            _build_phrase_colour(index) for index in range(len(PHRASE_COLOURS) * _COLOUR_CYCLES)
        ],
        repeat=len(PHRASE_COLOURS),
        heat=[to_hex(colour) for colour in HEATMAP_COLOURS],
    )

    @router.get("/")
    async def index(request: Request) -> Response:
        return files["index.html"].to_response(request)

    @router.get("/page/about")
    async def page_config() -> PageConfig:
        return config

    @router.get("/page/{name}")
    async def file(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404)
        return files[name].to_response(request)

    return router


def _list_compared_methods(predictor: MaskPredictor) -> list[ComparedMethod]:
    """Return K-means, the model's masks without SAM and, where there is one, with it."""
    names = ("Mask decoder", "Refined") if predictor.method == "head" else ("Attention", "Prompted")
    clusters = ComparedMethod(name="K-means", note="nothing trained", options={"method": "kmeans"})
    if not predictor.uses_segmenter:
        return [clusters, ComparedMethod(name=names[0], note="without SAM", options=None)]
    return [
        clusters,
        ComparedMethod(name=names[0], note="without SAM", options={"refine": False}),
        ComparedMethod(name=names[1], note="with SAM", options=None),
    ]


def _encode_thumbnail(path: Path) -> bytes:
    with Image.open(path) as picture:
        picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
        content = io.BytesIO()
        picture.convert("RGB").save(content, "WEBP", quality=75)
    return content.getvalue()


def _build_phrase_colour(index: int) -> PhraseColour:
    colour = phrase_colour(index)
    return PhraseColour(fill=to_hex(colour), ink=to_hex(contrasting_text_colour(colour)))
