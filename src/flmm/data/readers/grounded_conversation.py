"""GranD-f for grounded conversation generation (GCG): captions whose phrases have masks.

Supported are the files that GLaMM's authors annotated or made from Open-PSG:
``GranDf_HA_GCG_train.json``, ``OpenPsgGCG_train.json`` and ``OpenPsgGCG_val.json``, each a list of

    {"file_name": "1.jpg", "caption": "A cat on grass.",
     "groundings": {"A cat": {"token_positives": [0, 5], "rle_masks": [{"size": …, "counts": …}]}}}

``token_positives`` are the phrase's start and end in characters of the caption (-1, -1: not found
there). Not supported: the parts made from RefCOCOg and Flickr30k, which have other formats,
and the ``…_gcg_coco_…_gt.json`` of val and test, which do not say which words a mask belongs to.
"""

from collections import defaultdict
from pathlib import Path

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from flmm.data.readers.files import read_json
from flmm.data.sample import CocoRegion, GroundedPhrase, GroundedText, Sample, invalid_text
from flmm.errors import InputError


class _Grounding(TypedDict):
    token_positives: tuple[int, int]
    rle_masks: list[dict[str, object]]


class _Conversation(TypedDict):
    file_name: str
    caption: str
    groundings: dict[str, _Grounding | None]


_CONVERSATIONS = TypeAdapter(list[_Conversation])
_NOT_FOUND = (-1, -1)


def read_grounded_conversations(file: Path, pictures: Path) -> list[Sample]:
    """Return every caption of one file; those about one picture are the texts of one sample.

    Phrases that were not found in their caption, or have no mask, are left out; a caption with a
    phrase outside it is reported and skipped when the sample is loaded.

    Args:
        file: a supported file.
        pictures: the folder that its file names are relative to: ``GranDf_HA_images/train`` or
            ``coco_2017``.

    Raises:
        InputError: the file is missing, damaged or of another form, or has no caption.
    """
    texts: dict[str, list[GroundedText]] = defaultdict(list)
    conversations = read_json(file, _CONVERSATIONS)
    for number, conversation in enumerate(conversations):
        try:
            text = _text(str(number), conversation)
        except InputError as error:
            text = invalid_text(str(number), "caption", str(error))
        texts[conversation["file_name"]].append(text)
    if not texts:
        raise InputError(f"{str(file)!r} has no caption; download it again")
    return [Sample(pictures / picture, tuple(captions)) for picture, captions in texts.items()]


def _text(text_id: str, conversation: _Conversation) -> GroundedText:
    phrases = []
    for grounding in conversation["groundings"].values():
        if grounding is None or not grounding["rle_masks"]:
            continue
        if grounding["token_positives"] == _NOT_FOUND:
            continue
        regions = tuple(CocoRegion(mask) for mask in grounding["rle_masks"])
        start, end = grounding["token_positives"]
        phrases.append(GroundedPhrase(start, end, regions, plural=len(regions) > 1))
    phrases.sort(key=lambda phrase: (phrase.start, phrase.end))
    return GroundedText(text_id, "caption", conversation["caption"], tuple(phrases))
