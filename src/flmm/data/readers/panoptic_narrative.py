"""Panoptic narrative grounding (PNG): narratives of COCO 2017 with panoptic segments."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from flmm.data.readers.caption_phrases import find_phrase
from flmm.data.readers.files import index_by_id, read_json
from flmm.data.sample import GroundedPhrase, GroundedText, PanopticRegion, Sample, invalid_text
from flmm.errors import InputError


class _Utterance(TypedDict):
    utterance: str
    segment_ids: list[int]
    """Strings in the published files."""
    plural: NotRequired[bool]


class _Narrative(TypedDict):
    image_id: int
    """A string in the published files."""
    caption: str
    segments: list[_Utterance]


class _Segment(TypedDict):
    id: int
    category_id: int


class _Annotation(TypedDict):
    image_id: int
    file_name: str
    segments_info: list[_Segment]


class _Category(TypedDict):
    id: int
    isthing: Literal[0, 1]


class _Panoptic(TypedDict):
    annotations: list[_Annotation]
    categories: list[_Category]


_NARRATIVES = TypeAdapter(list[_Narrative])
_PANOPTIC = TypeAdapter(_Panoptic)


def read_panoptic_narratives(
    folder: Path, pictures: Path, part: Literal["train", "val"]
) -> list[Sample]:
    """Return every narrative of a part; those of one picture are the texts of one sample.

    A noun's segments are its phrase's regions; the phrase is a thing (or stuff) when they all are.
    A narrative without an utterance that has segments is reported and skipped when the sample is
    loaded.

    Args:
        folder: with ``png_coco_{part}2017.json``, ``panoptic_{part}2017.json`` and the folder
            ``panoptic_{part}2017`` of PNGs.
        pictures: COCO's ``{part}2017``.
        part: "train" or "val".

    Raises:
        InputError: a file is missing, damaged or of another form, two entries have the same id, or
            a narrative's picture is not in the panoptic file.
    """
    narratives_file = folder / f"png_coco_{part}2017.json"
    narratives = read_json(narratives_file, _NARRATIVES)
    panoptic_file = folder / f"panoptic_{part}2017.json"
    panoptic = read_json(panoptic_file, _PANOPTIC)
    annotations = index_by_id(
        panoptic_file,
        "annotations",
        ((annotation["image_id"], annotation) for annotation in panoptic["annotations"]),
    )
    categories = index_by_id(
        panoptic_file,
        "categories",
        ((category["id"], category["isthing"]) for category in panoptic["categories"]),
    )
    texts: dict[int, list[GroundedText]] = defaultdict(list)
    for number, narrative in enumerate(narratives):
        image = narrative["image_id"]
        if image not in annotations:
            raise InputError(
                f"{str(narratives_file)!r}: narrative {number} is about picture {image}, which the"
                " panoptic file lacks; take both files from one release"
            )
        annotation = annotations[image]
        are_things = {
            segment["id"]: categories.get(segment["category_id"])
            for segment in annotation["segments_info"]
        }
        file = folder / f"panoptic_{part}2017" / annotation["file_name"]
        try:
            text = _text(f"{image}-{number}", narrative, file, are_things)
        except InputError as error:
            text = invalid_text(f"{image}-{number}", "caption", str(error))
        texts[image].append(text)
    return [
        Sample(pictures / f"{image:012d}.jpg", tuple(captions)) for image, captions in texts.items()
    ]


def _text(
    text_id: str, narrative: _Narrative, panoptic: Path, are_things: Mapping[int, int | None]
) -> GroundedText:
    """Return the caption with a phrase for each utterance that has segments."""
    caption = narrative["caption"]
    phrases = []
    position = 0
    for utterance in narrative["segments"]:
        text, segments = utterance["utterance"], utterance["segment_ids"]
        start = caption.find(text, position)
        span = (start, start + len(text)) if start >= 0 else None
        if span is None and segments and text.strip():
            # The narrative may have been edited since: in another case, or with other white space.
            span = find_phrase(text, caption, [(0, position)])
        if span is None:
            if segments:
                raise InputError(f"the narrative does not say {text!r} after character {position}")
            continue
        start, position = span
        if segments and text:
            regions = tuple(PanopticRegion(panoptic, segment) for segment in segments)
            flags = {are_things.get(segment) for segment in segments}
            flag = flags.pop() if len(flags) == 1 else None
            is_thing = None if flag is None else bool(flag)
            phrases.append(
                GroundedPhrase(
                    start,
                    position,
                    regions,
                    plural=utterance.get("plural", False),
                    is_thing=is_thing,
                )
            )
    return GroundedText(text_id, "caption", caption, tuple(phrases))
