"""GranD-f's parts made from RefCOCOg and Flickr30k, in the forms that GLaMM's training reads.

``RefCOCOg_GCG_*.json``: phrases without positions, polygons of COCO 2014:

    [{"1": {"img_file_name": "COCO_train2014_….jpg", "caption": "A cat on grass.",
            "refs": [{"sentence": "a cat", "segmentation": [[x0, y0, x1, y1, …]]}, …]}}, …]

``flickr_mergedGT_GCG_*.json``: of COCO's form, with a caption an image and SAM's run lengths:

    {"images": [{"id": 1, "file_name": "1.jpg", "caption": "A cat on grass."}, …],
     "annotations": [{"image_id": 1, "tokens_positive": [[0, 5]], "sam_mask": {"size": …}}, …]}
"""

from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from flmm.data.readers.caption_phrases import find_phrase, unquote
from flmm.data.readers.files import read_json
from flmm.data.sample import CocoRegion, GroundedPhrase, GroundedText, Sample, invalid_text
from flmm.data.segmentation import Segmentation
from flmm.errors import InputError


class _Reference(TypedDict):
    sentence: str
    segmentation: NotRequired[Segmentation]


class _ReferredCaption(TypedDict):
    img_file_name: str
    caption: str
    refs: list[_Reference]


class _CaptionedImage(TypedDict):
    id: int
    file_name: str
    caption: str


class _Box(TypedDict):
    image_id: int
    tokens_positive: list[tuple[int, int]]
    sam_mask: NotRequired[Segmentation]
    ignore: NotRequired[bool | None]


class _Flickr(TypedDict):
    images: list[_CaptionedImage]
    annotations: list[_Box]


_REFERRED_CAPTIONS = TypeAdapter(list[dict[str, _ReferredCaption]])
_FLICKR = TypeAdapter(_Flickr)


def read_refcocog_captions(file: Path, pictures: Path) -> list[Sample]:
    """Return every caption of ``RefCOCOg_GCG_*.json``, with the phrases that it says.

    Args:
        file: the file.
        pictures: COCO's train2014.

    Raises:
        InputError: the file is missing, damaged or of another form, or has no caption.
    """
    texts: dict[str, list[GroundedText]] = defaultdict(list)
    content = read_json(file, _REFERRED_CAPTIONS)
    entries = chain.from_iterable(part.values() for part in content)
    for number, entry in enumerate(entries):
        texts[entry["img_file_name"]].append(_referred_text(str(number), entry))
    return _build_samples(file, pictures, texts)


def read_flickr_captions(file: Path, pictures: Path) -> list[Sample]:
    """Return every caption of ``flickr_mergedGT_GCG_*.json``.

    All regions of one span are one phrase; regions marked "ignore" are left out.

    Args:
        file: the file.
        pictures: Flickr30k's.

    Raises:
        InputError: the file is missing, damaged or of another form, or has no caption.
    """
    content = read_json(file, _FLICKR)
    regions: dict[int, dict[tuple[int, int], list[CocoRegion]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for box in content["annotations"]:
        if box["tokens_positive"] and not box.get("ignore"):
            span = box["tokens_positive"][0]
            regions[box["image_id"]][span].append(CocoRegion(box.get("sam_mask")))
    texts: dict[str, list[GroundedText]] = defaultdict(list)
    for image in content["images"]:
        phrases = (
            GroundedPhrase(start, end, tuple(of_span), plural=len(of_span) > 1)
            for (start, end), of_span in sorted(
                regions[image["id"]].items(), key=lambda entry: entry[0]
            )
        )
        identity = str(image["id"])
        try:
            text = GroundedText(identity, "caption", image["caption"], tuple(phrases))
        except InputError as error:
            text = invalid_text(identity, "caption", str(error))
        texts[image["file_name"]].append(text)
    return _build_samples(file, pictures, texts)


def _referred_text(identity: str, entry: _ReferredCaption) -> GroundedText:
    caption = unquote(entry["caption"])
    phrases: list[GroundedPhrase] = []
    for reference in entry["refs"]:
        taken = [(phrase.start, phrase.end) for phrase in phrases]
        words = unquote(reference["sentence"])
        span = find_phrase(words, caption, taken) if words else None
        if span is not None:
            phrases.append(GroundedPhrase(*span, (CocoRegion(reference.get("segmentation")),)))
    phrases.sort(key=lambda phrase: phrase.start)
    return GroundedText(identity, "caption", caption, tuple(phrases))


def _build_samples(
    file: Path, pictures: Path, texts: dict[str, list[GroundedText]]
) -> list[Sample]:
    if not texts:
        raise InputError(f"{str(file)!r} has no caption; download it again")
    return [Sample(pictures / picture, tuple(captions)) for picture, captions in texts.items()]
