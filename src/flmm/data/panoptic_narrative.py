"""Panoptic narrative grounding (PNG): narratives of COCO 2017 with panoptic segments."""

from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from flmm.data.files import read_json
from flmm.data.sample import GroundedPhrase, GroundedText, PanopticRegion, Sample
from flmm.errors import InputError


class _Segment(TypedDict):
    utterance: str
    segment_ids: list[str]


class _Narrative(TypedDict):
    image_id: str
    caption: str
    segments: list[_Segment]


class _PanopticAnnotation(TypedDict):
    image_id: int
    file_name: str


class _Panoptic(TypedDict):
    annotations: list[_PanopticAnnotation]


_NARRATIVES = TypeAdapter(list[_Narrative])
_PANOPTIC = TypeAdapter(_Panoptic)


def read_panoptic_narratives(
    folder: Path, pictures: Path, part: Literal["train", "val"]
) -> list[Sample]:
    """Every narrative of a part, one sample each.

    Args:
        folder: with ``png_coco_{part}2017.json``, ``panoptic_{part}2017.json`` and the folder
            ``panoptic_{part}2017`` of PNGs.
        pictures: COCO's ``{part}2017``.
        part: which.

    Raises:
        InputError: a file is missing, damaged or of another form, or the segments do not make up
            their caption.
    """
    narratives_file = folder / f"png_coco_{part}2017.json"
    narratives = read_json(narratives_file, _NARRATIVES)
    panoptic = read_json(folder / f"panoptic_{part}2017.json", _PANOPTIC)
    files = {
        one["image_id"]: folder / f"panoptic_{part}2017" / one["file_name"]
        for one in panoptic["annotations"]
    }
    samples = []
    for number, narrative in enumerate(narratives):
        image = int(narrative["image_id"])
        if image not in files:
            raise InputError(
                f"{str(narratives_file)!r}: narrative {number} is about picture {image}, which the"
                " panoptic file lacks; take both files from one release"
            )
        text = _text(narrative, number, files[image], narratives_file)
        samples.append(Sample(pictures / f"{image:012d}.jpg", (text,)))
    return samples


def _text(narrative: _Narrative, number: int, panoptic: Path, file: Path) -> GroundedText:
    """The caption, its grounded utterances looked up one after the other."""
    caption = narrative["caption"]
    phrases = []
    at = 0
    for segment in narrative["segments"]:
        said = segment["utterance"]
        start = caption.find(said, at)
        if start < 0:
            raise InputError(
                f"{str(file)!r}: narrative {number} does not say {said!r} after character {at};"
                " download the file again"
            )
        at = start + len(said)
        if segment["segment_ids"] and said:
            regions = [PanopticRegion(panoptic, int(one)) for one in segment["segment_ids"]]
            phrases.append(GroundedPhrase(start, at, tuple(regions)))
    return GroundedText(f"{narrative['image_id']}-{number}", "caption", caption, tuple(phrases))
