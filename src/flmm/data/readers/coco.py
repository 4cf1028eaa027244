"""COCO's format, which most annotation tools write: an instances JSON and a folder of pictures.

Read are ``images[].id, file_name``, ``annotations[].id, image_id, category_id, segmentation,
iscrowd`` and ``categories[].id, name`` (and ``isthing``, where a file has it); the rest is ignored.
"""

from collections import defaultdict
from pathlib import Path
from typing import Annotated, Literal, NotRequired

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from flmm.data.readers.files import index_by_id, read_json
from flmm.data.sample import CocoRegion, GroundedPhrase, GroundedText, Sample
from flmm.data.segmentation import Segmentation
from flmm.errors import InputError


class CocoImage(TypedDict):
    """A picture of an instances JSON."""

    id: int
    file_name: str


class CocoAnnotation(TypedDict):
    """A region of a picture."""

    id: int
    image_id: int
    category_id: int
    segmentation: NotRequired[Segmentation]
    """Some tools leave it out, or write null, for a box."""
    iscrowd: NotRequired[Literal[0, 1] | None]


class CocoCategory(TypedDict):
    """A category of regions."""

    id: int
    name: Annotated[str, Field(min_length=1)]
    isthing: NotRequired[Literal[0, 1] | None]


class CocoInstances(TypedDict):
    """An instances JSON."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


INSTANCES_SCHEMA = TypeAdapter(CocoInstances)


def read_coco(file: Path, pictures: Path) -> list[Sample]:
    """Return every picture, with a text for each category in it.

    The text is the category's name, as an expression; its phrase means all the category's regions
    together, and crowd regions are ignored. A category of which a picture has only crowd regions
    gives no text. A region that cannot be drawn costs its text, when the sample is loaded.

    Args:
        file: the instances JSON.
        pictures: the folder that its file names are relative to.

    Returns:
        One sample a picture that has a text, in the file's order.

    Raises:
        InputError: the file is missing, damaged or of another form, two entries have the same id,
            an annotation's picture or category is missing, or there is no text.
    """
    content = read_json(file, INSTANCES_SCHEMA)
    names = index_by_id(
        file, "images", ((image["id"], image["file_name"]) for image in content["images"])
    )
    categories = index_by_id(
        file, "categories", ((category["id"], category) for category in content["categories"])
    )
    annotations = index_by_id(
        file,
        "annotations",
        ((annotation["id"], annotation) for annotation in content["annotations"]),
    )
    by_picture: dict[int, dict[int, list[CocoAnnotation]]] = {
        image: defaultdict(list) for image in names
    }
    for annotation in annotations.values():
        image, category = annotation["image_id"], annotation["category_id"]
        if image not in names or category not in categories:
            raise InputError(
                f"{str(file)!r}: annotation {annotation['id']} names picture {image} and category"
                f" {category}, of which the file lacks one; export it again"
            )
        by_picture[image][category].append(annotation)
    samples = []
    for image, by_category in by_picture.items():
        category_texts = (
            _category_text(f"{image}-{category}", categories[category], category_annotations)
            for category, category_annotations in by_category.items()
        )
        texts = tuple(text for text in category_texts if text is not None)
        if texts:
            samples.append(Sample(pictures / names[image], texts))
    if not samples:
        raise InputError(f"{str(file)!r} has no region of a single thing; export it with masks")
    return samples


def _category_text(
    text_id: str, category: CocoCategory, annotations: list[CocoAnnotation]
) -> GroundedText | None:
    single, crowds = (
        tuple(
            CocoRegion(annotation.get("segmentation"))
            for annotation in annotations
            if bool(annotation.get("iscrowd")) == is_crowd
        )
        for is_crowd in (False, True)
    )
    if not single:
        return None
    flag = category.get("isthing")
    is_thing = None if flag is None else bool(flag)
    name = category["name"]
    phrase = GroundedPhrase(0, len(name), single, crowds, len(single) > 1, is_thing)
    return GroundedText(text_id, "expression", name, (phrase,))
