"""RefCOCO, RefCOCO+ and RefCOCOg: ``refs(….).p``, ``instances.json``, COCO's train2014 pictures."""

from collections import defaultdict
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from flmm.data.readers.coco import INSTANCES_SCHEMA
from flmm.data.readers.files import index_by_id, read_json, read_plain_pickle
from flmm.data.sample import CocoRegion, GroundedPhrase, GroundedText, Sample
from flmm.errors import InputError

SplitBy = Literal["unc", "umd", "google"]
"""Who split the data: UNC for RefCOCO and RefCOCO+, UMD or Google for RefCOCOg."""


class _Sentence(TypedDict):
    sent: str
    sent_id: int


class _Reference(TypedDict):
    ref_id: int
    ann_id: int
    image_id: int
    split: str
    sentences: list[_Sentence]


_REFERENCES = TypeAdapter(list[_Reference])


def read_refcoco(folder: Path, pictures: Path, part: str, split_by: SplitBy) -> list[Sample]:
    """Return every picture of a part ("train", "val", "testA", "testB", "test") with expressions.

    Args:
        folder: one of the three data sets, with ``refs(split_by).p`` and ``instances.json``.
        pictures: COCO's train2014.
        part: a ``split`` of the references.
        split_by: which of the references files.

    Returns:
        One sample a picture, in the file's order; each expression is a text of one phrase, empty
        ones are left out.

    Raises:
        InputError: a file is missing, damaged or of another form, a reference has no annotation,
            two entries have the same id, or there is no such part.
    """
    file = folder / f"refs({split_by}).p"
    references = read_plain_pickle(file, _REFERENCES)
    instances_file = folder / "instances.json"
    instances = read_json(instances_file, INSTANCES_SCHEMA)
    names = index_by_id(
        instances_file,
        "images",
        ((image["id"], image["file_name"]) for image in instances["images"]),
    )
    regions = index_by_id(
        instances_file,
        "annotations",
        (
            (annotation["id"], CocoRegion(annotation.get("segmentation")))
            for annotation in instances["annotations"]
        ),
    )
    index_by_id(
        file,
        "sentences",
        (
            (sentence["sent_id"], (reference["ref_id"], sentence["sent"]))
            for reference in references
            for sentence in reference["sentences"]
        ),
    )
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
            expression = sentence["sent"]
            if not expression:
                continue
            phrase = GroundedPhrase(0, len(expression), (regions[reference["ann_id"]],))
            text = GroundedText(str(sentence["sent_id"]), "expression", expression, (phrase,))
            texts[reference["image_id"]].append(text)
    if not texts:
        known = ", ".join(sorted({repr(reference["split"]) for reference in references})) or "none"
        raise InputError(f"{str(file)!r} has no part {part!r}; choose one of {known}")
    return [Sample(pictures / names[image], tuple(of_image)) for image, of_image in texts.items()]
