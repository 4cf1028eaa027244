"""RefCOCO, RefCOCO+ and RefCOCOg: ``refs(….).p``, ``instances.json``, COCO's train2014 pictures."""

from collections import defaultdict
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from flmm.data.files import read_json, read_plain_pickle
from flmm.data.sample import CocoRegion, GroundedPhrase, GroundedText, Sample
from flmm.errors import InputError

Split = Literal["unc", "umd", "google"]
"""Who divided the expressions: UNC for RefCOCO and RefCOCO+, UMD or Google for RefCOCOg."""


class _Sentence(TypedDict):
    sent: str
    sent_id: int


class _Reference(TypedDict):
    ref_id: int
    ann_id: int
    image_id: int
    split: str
    sentences: list[_Sentence]


class _Picture(TypedDict):
    id: int
    file_name: str


class _Annotation(TypedDict):
    id: int
    image_id: int
    segmentation: list[list[float]] | dict[str, object]


class _Instances(TypedDict):
    images: list[_Picture]
    annotations: list[_Annotation]


_REFERENCES = TypeAdapter(list[_Reference])
_INSTANCES = TypeAdapter(_Instances)


def read_refcoco(folder: Path, pictures: Path, part: str, split_by: Split) -> list[Sample]:
    """Every picture of a part ("train", "val", "testA", "testB", "test") with its expressions.

    Args:
        folder: of one of the three data sets, with ``refs(split_by).p`` and ``instances.json``.
        pictures: COCO's train2014.
        part: as the references name it.
        split_by: which references.

    Returns:
        One sample a picture, in the file's order; each expression is a text of one phrase.

    Raises:
        InputError: a file is missing, damaged or of another form, a reference has no annotation,
            or there is no such part.
    """
    file = folder / f"refs({split_by}).p"
    references = read_plain_pickle(file, _REFERENCES)
    instances = read_json(folder / "instances.json", _INSTANCES)
    names = {picture["id"]: picture["file_name"] for picture in instances["images"]}
    regions = {one["id"]: CocoRegion(one["segmentation"]) for one in instances["annotations"]}
    texts: dict[int, list[GroundedText]] = defaultdict(list)
    for reference in references:
        if reference["split"] != part:
            continue
        if reference["ann_id"] not in regions or reference["image_id"] not in names:
            raise InputError(
                f"{str(file)!r}: reference {reference['ref_id']} names an annotation or picture"
                " that instances.json lacks; take both files from one release"
            )
        for sentence in reference["sentences"]:
            said = sentence["sent"]
            phrase = GroundedPhrase(0, len(said), (regions[reference["ann_id"]],))
            identity = str(sentence["sent_id"])
            texts[reference["image_id"]].append(
                GroundedText(identity, "expression", said, (phrase,))
            )
    if not texts:
        known = ", ".join(sorted({reference["split"] for reference in references}))
        raise InputError(f"{str(file)!r} has no part {part!r}; choose one of {known}")
    return [Sample(pictures / names[image], tuple(said)) for image, said in texts.items()]
