"""GCG's ground truth of ``val`` and ``test``: captions with labels in one file, masks in another.

As GLaMM's published evaluation reads them, ``val_gcg_coco_caption_gt.json`` is of COCO's form for
captions, one a picture,

    {"annotations": [{"image_id": "sa_1", "caption": "A cat on grass.", "labels": ["A cat", …]}]}

and ``val_gcg_coco_mask_gt.json`` of COCO's form for instances, a picture's masks in the order of
its labels:

    {"annotations": [{"image_id": "sa_1", "segmentation": {"size": …, "counts": …}}]}

The picture is the ``image_id`` with ``.jpg``.
"""

from collections import defaultdict
from pathlib import Path
from typing import NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from flmm.data.readers.caption_phrases import find_phrase
from flmm.data.readers.files import find_picture, read_json
from flmm.data.sample import CocoRegion, GroundedPhrase, GroundedText, Sample, invalid_text
from flmm.data.segmentation import Segmentation
from flmm.errors import InputError

_CAPTIONS_ENDING, _MASKS_ENDING = "_caption_gt.json", "_mask_gt.json"


class _Caption(TypedDict):
    image_id: str | int
    caption: str
    labels: list[str]


class _Mask(TypedDict):
    image_id: str | int
    segmentation: NotRequired[Segmentation]


class _Captions(TypedDict):
    annotations: list[_Caption]


class _Masks(TypedDict):
    annotations: list[_Mask]


_CAPTIONS = TypeAdapter(_Captions)
_MASKS = TypeAdapter(_Masks)


def is_ground_truth(file: Path) -> bool:
    """Return whether a file of GranD-f is one of GCG's ground truth, by its published name."""
    return file.name.endswith((_CAPTIONS_ENDING, _MASKS_ENDING))


def read_ground_truth(file: Path, pictures: Path) -> list[Sample]:
    """Return every picture of a part with its caption, whose phrases are the labels.

    A label is where the caption says it; one that it does not say is a phrase with a ``label``. A
    caption whose labels are not as many as its picture's masks is reported and skipped when the
    sample is loaded, and so is a picture's second caption.

    Args:
        file: ``…_caption_gt.json``; ``…_mask_gt.json`` is beside it.
        pictures: ``GranDf_HA_images/val_test``.

    Raises:
        InputError: a file is missing, damaged or of another form, or there is no caption.
    """
    name = file.name.removesuffix(_MASKS_ENDING).removesuffix(_CAPTIONS_ENDING)
    captions_file, masks_file = (
        file.with_name(name + ending) for ending in (_CAPTIONS_ENDING, _MASKS_ENDING)
    )
    captions = read_json(captions_file, _CAPTIONS)["annotations"]
    regions: dict[str, list[CocoRegion]] = defaultdict(list)
    for mask in read_json(masks_file, _MASKS)["annotations"]:
        regions[str(mask["image_id"])].append(CocoRegion(mask.get("segmentation")))
    texts: dict[str, list[GroundedText]] = defaultdict(list)
    for number, caption in enumerate(captions):
        identity, image = str(number), str(caption["image_id"])
        try:
            if texts[image]:
                raise InputError(f"picture {image!r} has a caption already")
            text = _text(identity, caption, regions[image])
        except InputError as error:
            text = invalid_text(identity, "caption", str(error))
        texts[image].append(text)
    if not texts:
        raise InputError(f"{str(captions_file)!r} has no caption; download it again")
    return [Sample(find_picture(pictures / image), tuple(of_it)) for image, of_it in texts.items()]


def _text(identity: str, caption: _Caption, regions: list[CocoRegion]) -> GroundedText:
    labels, text = caption["labels"], caption["caption"]
    if len(labels) != len(regions):
        raise InputError(
            f"its caption has {len(labels)} labels and its picture {len(regions)} masks"
        )
    if not text or not all(map(str.strip, labels)):
        raise InputError("its caption or one of its labels has no words")
    phrases: list[GroundedPhrase] = []
    for label, region in zip(labels, regions, strict=True):
        taken = [(phrase.start, phrase.end) for phrase in phrases if phrase.label is None]
        span = find_phrase(label, text, taken)
        phrases.append(
            GroundedPhrase(0, len(text), (region,), label=label)
            if span is None
            else GroundedPhrase(*span, (region,))
        )
    phrases.sort(key=lambda phrase: (phrase.label is not None, phrase.start, phrase.end))
    return GroundedText(identity, "caption", text, tuple(phrases))
