"""GranD-f for grounded conversation generation (GCG): captions whose phrases have masks.

A file's name says its form. Those that GLaMM's authors annotated or made from Open-PSG,
``GranDf_HA_GCG_train.json``, ``OpenPsgGCG_train.json`` and ``OpenPsgGCG_val.json``, are a list of

    {"file_name": "1.jpg", "caption": "A cat on grass.",
     "groundings": {"A cat": {"token_positives": [0, 5], "rle_masks": [{"size": …, "counts": …}]}}}

``token_positives`` are the phrase's start and end in characters of the caption (-1, -1: not found
there), without the quotation marks around it, as GLaMM's published training counts them. The
parts made from RefCOCOg and Flickr30k are read by ``grounded_conversation_parts.py``, the ground
truth of ``val`` and ``test`` by ``grounded_conversation_truth.py``.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from flmm.data.readers.caption_phrases import unquote
from flmm.data.readers.files import read_json
from flmm.data.readers.grounded_conversation_parts import (
    read_flickr_captions,
    read_refcocog_captions,
)
from flmm.data.readers.grounded_conversation_truth import is_ground_truth, read_ground_truth
from flmm.data.sample import CocoRegion, GroundedPhrase, GroundedText, Sample, invalid_text
from flmm.errors import InputError


class _Grounding(TypedDict):
    token_positives: list[int] | object
    rle_masks: NotRequired[list[object] | None]


class _Conversation(TypedDict):
    file_name: str
    caption: str
    groundings: dict[str, _Grounding | None]


_CONVERSATIONS = TypeAdapter(list[_Conversation])
_NOT_FOUND = [-1, -1]


def read_grounded_conversations(file: Path, pictures: Path) -> list[Sample]:
    """Return every caption of one file; those about one picture are the texts of one sample.

    Phrases that were not found in their caption, or have no mask, are left out; a caption with a
    phrase outside it is reported and skipped when the sample is loaded.

    Args:
        file: one of GranD-f, with its published name.
        pictures: the folder that its file names are relative to: ``GranDf_HA_images/train``,
            ``coco_2017``, or for the ground truth ``GranDf_HA_images/val_test``.

    Raises:
        InputError: the file is missing, damaged or of another form, or has no caption.
    """
    if is_ground_truth(file):
        return read_ground_truth(file, pictures)
    if file.name.startswith("RefCOCOg_GCG"):
        return read_refcocog_captions(file, pictures)
    if file.name.startswith("flickr"):
        return read_flickr_captions(file, pictures)
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
    spans = []
    for words, grounding in conversation["groundings"].items():
        if grounding is None or grounding["token_positives"] == _NOT_FOUND:
            continue
        start, end = _read_positions(words, grounding["token_positives"])
        spans.append((words, start, end))
        if masks := grounding.get("rle_masks"):
            regions = tuple(map(CocoRegion, masks))
            phrases.append(GroundedPhrase(start, end, regions, plural=len(regions) > 1))
    phrases.sort(key=lambda phrase: (phrase.start, phrase.end))
    caption = _choose_caption(conversation["caption"], spans)
    return GroundedText(text_id, "caption", caption, tuple(phrases))


def _read_positions(words: str, positions: object) -> tuple[int, int]:
    match positions:
        case [int(start), int(end)]:
            return start, end
    raise InputError(f"the positions of {words!r} are {positions!r}, not a start and an end")


def _choose_caption(caption: str, spans: Iterable[tuple[str, int, int]]) -> str:
    """Return the caption without its quotation marks, unless more phrases fit it with them."""

    def count_fits(text: str) -> int:
        return sum(text[start:end].lower() == words.lower() for words, start, end in spans)

    return max(unquote(caption), caption, key=count_fits)
