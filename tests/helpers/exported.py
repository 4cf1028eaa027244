"""Results of flmm batch with given masks, exported, and masks read back from the files.

Needs neither torch nor any annotation tool; the readers are written from the formats' descriptions.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import yaml
from mask_shapes import MASK_SHAPES, build_large_mask, build_mask
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

from flmm.answers.answer import Answer
from flmm.answers.phrase import Phrase
from flmm.answers.run_lengths import encode_rle
from flmm.exports.formats import ExportFormat
from flmm.exports.labels import LabelMap
from flmm.exports.pictures import ExportCounts, LabelledPictures
from flmm.exports.results import BatchResults
from flmm.exports.run import export_pictures
from flmm.types import Box

Mask = NDArray[np.bool_]
Masks = Mapping[str, Sequence[tuple[str, Mask]]]
"""The labelled masks of each picture."""


def box_around(mask: Mask) -> Box:
    """The box around a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def build_phrase(text: str, mask: Mask, score: float = 0.75) -> Phrase:
    """A phrase with a mask."""
    return Phrase(text, 0, len(text), (0,), encode_rle(mask), box_around(mask), score)


def write_results(file: Path, masks: Masks) -> Path:
    """Write a results file with an answer about each picture."""
    lines = []
    for image, labelled in masks.items():
        height, width = labelled[0][1].shape
        phrases = tuple(build_phrase(text, mask) for text, mask in labelled)
        answer = Answer("it", "head", "lmm", (height, width), phrases, {}, Image.new("RGB", (1, 1)))
        task = {"image": image, "question": "What is it?"}
        result = {"id": image, "version": "0", "task": task, "answer": answer.to_dict()}
        lines.append(f"{json.dumps(result)}\n")
    file.write_text("".join(lines))
    return file


def all_shapes(large: bool = True) -> Masks:
    """A picture with each of the small masks, one with many of them, and a large one."""
    pictures: dict[str, Sequence[tuple[str, Mask]]] = {
        f"{name}.png": [(name, build_mask(name))] for name in MASK_SHAPES
    }
    small = [name for name in MASK_SHAPES if build_mask(name).shape == (12, 17)]
    pictures["folder/all of them.jpg"] = [
        (f'"{name[:3]}" & <ü>', build_mask(name)) for name in small
    ]
    if large:
        pictures["large.png"] = [("waves", build_large_mask())]
    return pictures


def export(
    masks: Masks,
    export_format: ExportFormat,
    folder: Path,
    labels: LabelMap | None = None,
    image_prefix: str = "",
) -> tuple[Path, ExportCounts]:
    """Export masks; return the files' folder and what was exported."""
    results = BatchResults(write_results(folder / "results.jsonl", masks))
    pictures = LabelledPictures(results, labels)
    export_pictures(pictures, export_format, folder / "out", image_prefix)
    return folder / "out", pictures.counts


def without_empty(masks: Masks) -> dict[str, list[tuple[str, Mask]]]:
    """What an export has of the masks."""
    return {
        image: [(label, mask) for label, mask in labelled if mask.any()]
        for image, labelled in masks.items()
    }


def read_coco(folder: Path, _masks: Masks) -> Masks:
    """Read annotations.json with pycocotools."""
    dataset = COCO(str(folder / "annotations.json"))
    names = {number: category["name"] for number, category in dataset.cats.items()}
    return {
        image["file_name"]: [
            (names[entry["category_id"]], dataset.annToMask(entry).astype(np.bool_))
            for entry in dataset.imgToAnns[number]
        ]
        for number, image in dataset.imgs.items()
    }


def read_label_studio(folder: Path, _masks: Masks) -> Masks:
    """Read tasks.json bit by bit."""
    pictures = {}
    for task in json.loads((folder / "tasks.json").read_text()):
        (prediction,) = task["predictions"]
        pictures[task["data"]["image"]] = [
            (
                result["value"]["brushlabels"][0],
                decode_brush(
                    result["value"]["rle"], result["original_height"], result["original_width"]
                ),
            )
            for result in prediction["result"]
        ]
    return pictures


def decode_brush(encoded: Sequence[int], height: int, width: int) -> Mask:
    """Decode a stream of bits: header, then runs or single values."""
    bits = "".join(f"{byte:08b}" for byte in encoded)
    position = 0

    def read(count: int) -> int:
        nonlocal position
        position += count
        return int(bits[position - count : position], 2)

    count, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = np.zeros(count, dtype=np.uint8)
    done = 0
    while done < count:
        is_run = read(1)
        length = read(sizes[read(2)]) + 1
        values[done : done + length] = read(word) if is_run else [read(word) for _ in range(length)]
        done += length
    channels = values.reshape(height, width, 4)
    assert (channels == channels[..., :1]).all()
    assert set(np.unique(channels)) <= {0, 255}
    mask: Mask = channels[..., 0] > 0
    return mask


def read_cvat(folder: Path, _masks: Masks) -> Masks:
    """Read annotations.xml."""
    pictures = {}
    for image in ElementTree.parse(folder / "annotations.xml").getroot().iter("image"):
        labelled = []
        for entry in image.iter("mask"):
            left, top, width, height = (
                int(entry.get(name, "")) for name in ("left", "top", "width", "height")
            )
            runs = [int(length) for length in entry.get("rle", "").split(",")]
            part = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
            mask = np.zeros((int(image.get("height", "")), int(image.get("width", ""))), np.bool_)
            mask[top : top + height, left : left + width] = part
            labelled.append((entry.get("label", ""), mask))
        pictures[image.get("name", "")] = labelled
    return pictures


def read_yolo(folder: Path, masks: Masks) -> Masks:
    """Read the text files; pictures' names and sizes are known."""
    names = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))["names"]
    pictures = {}
    for image, given in masks.items():
        height, width = given[0][1].shape
        labelled = []
        for line in (folder / "labels" / Path(image).with_suffix(".txt")).read_text().splitlines():
            number, *values = line.split()
            corners = np.array(values, dtype=float).reshape(-1, 2) * [width, height]
            labelled.append((names[int(number)], fill_even_odd(corners, height, width)))
        pictures[image] = labelled
    return pictures


def fill_even_odd(corners: NDArray[np.float64], height: int, width: int) -> Mask:
    """Fill the pixels whose centres are inside a ring: left of an odd number of its lines."""
    changes = np.zeros((height, width + 1), dtype=np.int64)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        rows = np.arange(*np.ceil(np.array(sorted((y0, y1))) - 0.5).astype(int))
        if len(rows):
            across = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            np.add.at(changes, (rows, np.ceil(across - 0.5).astype(int)), 1)
    inside: Mask = np.cumsum(changes, axis=1)[:, :-1] % 2 == 1
    return inside


def read_labelme(folder: Path, masks: Masks) -> Masks:
    """Read the JSON files; pictures' names are known."""
    pictures = {}
    for image in masks:
        content = json.loads((folder / Path(image).with_suffix(".json")).read_text())
        assert content["imagePath"] == Path(image).name
        labelled = []
        for shape in content["shapes"]:
            assert shape["shape_type"] == "mask"
            (left, top), (right, bottom) = shape["points"]
            mask = np.zeros((content["imageHeight"], content["imageWidth"]), dtype=np.bool_)
            part = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"]))))
            mask[top : bottom + 1, left : right + 1] = part > 0
            labelled.append((shape["label"], mask))
        pictures[image] = labelled
    return pictures


def read_mask_files(folder: Path, masks: Masks) -> Masks:
    """Read the PNG files that masks.jsonl lists."""
    pictures: dict[str, list[tuple[str, Mask]]] = {image: [] for image in masks}
    for line in (folder / "masks.jsonl").read_text().splitlines():
        entry = json.loads(line)
        values = np.asarray(Image.open(folder / entry["file"]))
        pictures[entry["image"]].append((entry["label"], values == 255))
    return pictures


READERS = {
    "coco": read_coco,
    "label-studio": read_label_studio,
    "cvat": read_cvat,
    "yolo-seg": read_yolo,
    "labelme": read_labelme,
    "masks": read_mask_files,
}


def assert_same(read: Masks, expected: Masks) -> None:
    """Check pictures, labels and every pixel."""
    assert set(read) == set(expected)
    for image, labelled in expected.items():
        assert [label for label, _ in read[image]] == [label for label, _ in labelled], image
        for (label, mask), (_, other) in zip(labelled, read[image], strict=True):
            assert mask.shape == other.shape, (image, label)
            assert np.array_equal(mask, other), (image, label)
