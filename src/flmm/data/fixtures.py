"""Tiny copies of the field's data sets, shaped exactly like the published files.

Their pictures are sticker scenes, whose masks are known to the pixel; tests and examples run every
reader on them.
"""

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from flmm.answer import run_lengths
from flmm.data.sample import Mask
from flmm.stickers.draw import Drawing, draw, mention_mask
from flmm.stickers.language import caption, referring_expressions
from flmm.stickers.scene import draw_scene

_SIZE = 96


@dataclass(frozen=True)
class Fixture:
    """A data set on disk."""

    folder: Path
    """Of its texts and masks."""
    pictures: Path
    drawings: tuple[Drawing, ...]
    """What the pictures show, in their order."""


def write_refcoco(folder: Path, pictures: int = 4, first_scene: int = 0) -> Fixture:
    """``refs(unc).p``, ``instances.json`` and ``train2014``; parts train and testA in turn."""
    drawings = _draw(pictures, first_scene)
    images, annotations, references = [], [], []
    sentences = 0
    for number, drawing in enumerate(drawings):
        image = 100 + number
        name = f"COCO_train2014_{image:012d}.jpg"
        _save(drawing, folder / "train2014" / name)
        images.append({"id": image, "file_name": name, "height": _SIZE, "width": _SIZE})
        for thing, mask in enumerate(drawing.thing_masks):
            annotation = 1000 * image + thing
            annotations.append(
                {
                    "id": annotation,
                    "image_id": image,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": int(mask.sum()),
                    "segmentation": _uncompressed(mask),
                }
            )
            said = []
            for expression in referring_expressions(drawing.scene, thing):
                said.append(
                    {
                        "sent": expression,
                        "raw": expression,
                        "tokens": expression.split(),
                        "sent_id": sentences,
                    }
                )
                sentences += 1
            references.append(
                {
                    "ref_id": annotation,
                    "ann_id": annotation,
                    "image_id": image,
                    "category_id": 1,
                    "split": ("train", "testA")[number % 2],
                    "file_name": name.replace(".jpg", f"_{thing}.jpg"),
                    "sentences": said,
                    "sent_ids": [one["sent_id"] for one in said],
                }
            )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "refs(unc).p").write_bytes(pickle.dumps(references, protocol=2))
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1}]}
    _write(folder / "instances.json", json.dumps(content))
    return Fixture(folder, folder / "train2014", drawings)


def write_panoptic_narratives(folder: Path, pictures: int = 3, first_scene: int = 0) -> Fixture:
    """``png_coco_val2017.json``, ``panoptic_val2017.json`` with its PNGs, and ``val2017``."""
    drawings = _draw(pictures, first_scene)
    narratives, annotations = [], []
    for number, drawing in enumerate(drawings):
        image = 200 + number
        _save(drawing, folder / "val2017" / f"{image:012d}.jpg")
        numbers = drawing.owner.astype(np.int64) * 70_001 + 1
        colours = np.stack([numbers % 256, numbers // 256 % 256, numbers // 256**2], axis=-1)
        name = f"{image:012d}.png"
        (folder / "panoptic_val2017").mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours.astype(np.uint8)).save(folder / "panoptic_val2017" / name)
        annotations.append({"image_id": image, "file_name": name, "segments_info": []})
        told = caption(drawing.scene)
        segments, at = [], 0
        for mention in told.mentions:
            if mention.start > at:
                segments.append(_segment(told.answer[at : mention.start], []))
            bands = len(drawing.scene.bands)
            owners = [*mention.bands, *(bands + thing for thing in mention.things)]
            said = told.answer[mention.start : mention.end]
            segments.append(_segment(said, [owner * 70_001 + 1 for owner in owners]))
            at = mention.end
        segments.append(_segment(told.answer[at:], []))
        narratives.append({"image_id": str(image), "caption": told.answer, "segments": segments})
    _write(folder / "png_coco_val2017.json", json.dumps(narratives))
    content = {"annotations": annotations, "categories": []}
    _write(folder / "panoptic_val2017.json", json.dumps(content))
    return Fixture(folder, folder / "val2017", drawings)


def write_plain(folder: Path, pictures: int = 3, first_scene: int = 0) -> Fixture:
    """``texts.jsonl`` and its pictures beside it."""
    drawings = _draw(pictures, first_scene)
    lines = []
    for number, drawing in enumerate(drawings):
        _save(drawing, folder / f"{number}.jpg")
        told = caption(drawing.scene)
        phrases = [
            {
                "start": mention.start,
                "end": mention.end,
                "segmentation": run_lengths(mention_mask(drawing, mention)),
            }
            for mention in told.mentions
        ]
        lines.append(
            {
                "image": f"{number}.jpg",
                "question": told.question,
                "text": told.answer,
                "phrases": phrases,
            }
        )
    _write(folder / "texts.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return Fixture(folder, folder, drawings)


def write_reason_seg(folder: Path, pictures: int = 3, first_scene: int = 0) -> Fixture:
    """Each picture's JSON beside it: polygons around its first thing, its last one ignored."""
    drawings = _draw(pictures, first_scene)
    for number, drawing in enumerate(drawings):
        _save(drawing, folder / f"{number}.jpg")
        masks = drawing.thing_masks
        shapes = [{"label": "target", "points": _box_corners(masks[0])}]
        if len(masks) > 1:
            shapes.append({"label": "ignore", "points": _box_corners(masks[-1])})
        shapes.append({"label": "flag", "points": [[0, 0]]})
        asked = f"Which thing would fit a café beside the {drawing.scene.ground.name}?"
        content = {"text": [asked, "the thing"], "is_sentence": number % 2 == 0, "shapes": shapes}
        # Some of the published files are not UTF-8.
        encoded = json.dumps(content, ensure_ascii=False).encode(("utf-8", "cp1252")[number % 2])
        (folder / f"{number}.json").write_bytes(encoded)
    return Fixture(folder, folder, drawings)


def _box_corners(mask: Mask) -> list[list[int]]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def _uncompressed(mask: Mask) -> dict[str, object]:
    """COCO's run lengths as a list: down the columns, beginning with those outside."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def _segment(utterance: str, segments: Sequence[int]) -> dict[str, object]:
    """One piece of a narrative; most mean nothing in the picture."""
    return {
        "utterance": utterance,
        "segment_ids": list(map(str, segments)),
        "plural": len(segments) > 1,
        "noun": bool(segments),
    }


def _draw(pictures: int, first_scene: int) -> tuple[Drawing, ...]:
    return tuple(draw(draw_scene(first_scene + number), _SIZE) for number in range(pictures))


def _save(drawing: Drawing, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawing.picture).save(file, quality=95)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
