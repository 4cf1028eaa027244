"""The web page: a few files that come with the package, and what they need to know."""

import gzip
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from flmm.answers.palette import COLOURS, HEAT, colour_of, hexadecimal, text_colour

_PAGE = Path(__file__).parent / "static"
_PICTURES = Path(__file__).parents[2] / "assets" / "pictures"
_TITLES = {
    "demo.png": "A meadow at night",
    "wall.png": "A street by a wall",
    "sea.png": "The sea at sunset",
    "snow.png": "Snow at night",
}
"""Of the bundled pictures, in the order in which they are offered."""
_KINDS = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml", ".png": "image/png",
}  # fmt: skip
_TURNS_OF_COLOURS = 5
"""After so many the colours stay as dark as they are."""
# No script but the page's own files, no request but to this server, and no text made markup: even
# a mistake of ours cannot let the model's words run.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


class BundledPicture(BaseModel):
    """A picture that the page offers."""

    name: str
    title: str
    url: str


class PhraseColour(BaseModel):
    """A phrase's colour, and that of its number on it."""

    fill: str
    ink: str


class About(BaseModel):
    """What the page asks first."""

    pictures: list[BundledPicture]
    colours: list[PhraseColour]
    """Of the phrases, in their order; from the last set on they repeat."""
    repeat: int
    """How many colours a set has."""
    heat: list[str]
    """From nothing to the most."""


@dataclass(frozen=True)
class _File:
    kind: str
    content: bytes
    packed: bytes
    tag: str

    @classmethod
    def read(cls, path: Path) -> "_File":
        content = path.read_bytes()
        tag = f'"{blake2b(content, digest_size=12).hexdigest()}"'
        return cls(_KINDS[path.suffix], content, gzip.compress(content, mtime=0), tag)

    def response(self, request: Request) -> Response:
        headers = {
            "cache-control": "no-cache",
            "content-security-policy": _POLICY,
            "etag": self.tag,
            "vary": "accept-encoding",
        }
        if request.headers.get("if-none-match") == self.tag:
            return Response(status_code=304, headers=headers)
        content = self.content
        if "gzip" in request.headers.get("accept-encoding", "") and len(self.packed) < len(content):
            headers["content-encoding"] = "gzip"
            content = self.packed
        return Response(content, media_type=self.kind, headers=headers)


def page_routes() -> APIRouter:
    """The page at ``/``, and its files below ``/page/``; they are read once."""
    router = APIRouter(include_in_schema=False)
    paths = [*_PAGE.iterdir(), *(_PICTURES / name for name in _TITLES)]
    files = {path.name: _File.read(path) for path in paths if path.suffix in _KINDS}
    about = About(
        pictures=[
            BundledPicture(name=name, title=title, url=f"/page/{name}")
            for name, title in _TITLES.items()
        ],
        colours=[_colour(index) for index in range(len(COLOURS) * _TURNS_OF_COLOURS)],
        repeat=len(COLOURS),
        heat=[hexadecimal(colour) for colour in HEAT],
    )

    @router.get("/")
    async def index(request: Request) -> Response:
        return files["index.html"].response(request)

    @router.get("/page/about")
    async def about_page() -> About:
        return about

    @router.get("/page/{name}")
    async def file(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404)
        return files[name].response(request)

    return router


def _colour(index: int) -> PhraseColour:
    colour = colour_of(index)
    return PhraseColour(fill=hexadecimal(colour), ink=hexadecimal(text_colour(colour)))
