"""The JSON of answers: the contract between the command line, Python and HTTP."""

from typing import NotRequired

from typing_extensions import TypedDict


class CocoRLE(TypedDict):
    """A mask as COCO's compressed run lengths; ``pycocotools.mask.decode`` reads it."""

    size: list[int]
    """[H, W]"""
    counts: str


class PhraseJson(TypedDict):
    """A phrase in an answer's JSON."""

    text: str
    start: int
    end: int
    score: float
    box: list[int]
    """[x0, y0, x1, y1], x1 and y1 exclusive."""
    area: int
    mask: CocoRLE
    picture: NotRequired[int]
    """Which of the conversation's pictures, from 0; results of earlier versions lack it."""


class AnswerJson(TypedDict):
    """An answer's JSON, the same from the command line, Python and HTTP."""

    text: str
    model: str
    lmm: str
    size: list[int]
    """[H, W] of the first picture; masks have their own."""
    phrases: list[PhraseJson]
    timings: dict[str, float]


class WordAttentionJson(TypedDict):
    """A word in an attention view's JSON."""

    text: str
    start: int
    end: int
    on_picture: float
    """The share of the attention that was on the picture, in 0..1; the map's sum."""
    map: list[list[float]]
    """h rows of w values."""


class AttentionViewJson(TypedDict):
    """An attention view's JSON."""

    question: str
    text: str
    lmm: str
    size: list[int]
    """[H, W]"""
    grid: list[int]
    """[h, w]"""
    layer: int | None
    """Layer of the maps; None for the mean over all."""
    head: int | None
    words: list[WordAttentionJson]
    timings: dict[str, float]


class ThoughtJson(TypedDict):
    """The JSON of a visual chain of thought."""

    question: str
    locate: str
    """Whose phrases were located: "answer" or "question"."""
    crop: str
    """What the second prompt showed: "box", "mask" or "random"."""
    box: list[int]
    """[x0, y0, x1, y1] of the crop, x1 and y1 exclusive."""
    located: PhraseJson | None
    """None where nothing was located; the crop is then the whole picture."""
    first: AnswerJson
    answer: AnswerJson
    """The answer to the picture and the crop."""


class CocoImage(TypedDict):
    """An entry of a COCO data set's ``images``."""

    id: int
    width: int
    height: int
    file_name: str


class CocoAnnotation(TypedDict):
    """An entry of a COCO data set's ``annotations``."""

    id: int
    image_id: int
    category_id: int
    segmentation: CocoRLE | list[list[int]]
    """Run lengths, or rings of [x0, y0, x1, y1, …] that have no holes."""
    bbox: list[int]
    """[x, y, width, height]"""
    area: int
    iscrowd: int
    score: float


class CocoCategory(TypedDict):
    """An entry of a COCO data set's ``categories``."""

    id: int
    name: str


class CocoDataset(TypedDict):
    """A COCO instances data set of one picture."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]
