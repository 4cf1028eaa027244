"""All data set formats: the writer of each fixture, and its entry in a config."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from flmm.data.fixtures import (
    DatasetFixture,
    write_coco,
    write_flickr_captions,
    write_grounded_conversation_truth,
    write_grounded_conversations,
    write_panoptic_narratives,
    write_plain,
    write_reason_seg,
    write_refcoco,
    write_refcocog_captions,
    write_viscot,
)
from flmm.data.sample import Sample
from flmm.data.sample_loader import LoadedSample, SampleLoader
from flmm.data.sources import check_sources


@dataclass(frozen=True)
class Format:
    """A format; `file` is its main file, `entry` its config without kind and name."""

    kind: str
    write: Callable[[Path], DatasetFixture]
    file: str
    entry: dict[str, str]

    @property
    def name(self) -> str:
        """Its kind and file, as one kind can have several forms."""
        return f"{self.kind} {self.file}"

    def read(self, folder: Path) -> list[Sample]:
        """Read the samples of the fixture in `folder` through a config's entry."""
        (source,) = check_sources([{"kind": self.kind, "name": self.kind, **self.entry}])
        return source.read(folder)


REFCOCO = Format(
    "refcoco",
    write_refcoco,
    "instances.json",
    {"folder": ".", "pictures": "train2014", "part": "train", "split_by": "unc"},
)
NARRATIVES = Format(
    "panoptic_narratives",
    write_panoptic_narratives,
    "png_coco_val2017.json",
    {"folder": ".", "pictures": "val2017", "part": "val"},
)
CONVERSATIONS = Format(
    "grounded_conversation",
    write_grounded_conversations,
    "OpenPsgGCG_val.json",
    {"file": "OpenPsgGCG_val.json", "pictures": "coco_2017"},
)
GROUND_TRUTH = Format(
    "grounded_conversation",
    write_grounded_conversation_truth,
    "val_gcg_coco_caption_gt.json",
    {"file": "val_gcg_coco_caption_gt.json", "pictures": "val_test"},
)
REFCOCOG_CAPTIONS = Format(
    "grounded_conversation",
    write_refcocog_captions,
    "RefCOCOg_GCG_val.json",
    {"file": "RefCOCOg_GCG_val.json", "pictures": "train2014"},
)
FLICKR_CAPTIONS = Format(
    "grounded_conversation",
    write_flickr_captions,
    "flickr_mergedGT_GCG_val.json",
    {"file": "flickr_mergedGT_GCG_val.json", "pictures": "flickr"},
)
REASON_SEG = Format("reason_seg", write_reason_seg, "1.json", {"folder": "."})
VISCOT = Format(
    "viscot", write_viscot, "benchmark/gqa.json", {"file": "benchmark/gqa.json", "pictures": "."}
)
COCO = Format(
    "coco", write_coco, "instances.json", {"file": "instances.json", "pictures": "pictures"}
)
PLAIN = Format("plain", write_plain, "texts.jsonl", {"file": "texts.jsonl"})

FORMATS = (
    REFCOCO, NARRATIVES, CONVERSATIONS, GROUND_TRUTH, REFCOCOG_CAPTIONS, FLICKR_CAPTIONS,
    REASON_SEG, VISCOT, COCO, PLAIN,
)  # fmt: skip

FILES = (
    *((form, form.file) for form in FORMATS),
    (REFCOCO, "refs(unc).p"),
    (NARRATIVES, "panoptic_val2017.json"),
    (GROUND_TRUTH, "val_gcg_coco_mask_gt.json"),
)
"""(format, name) of each file with texts or masks."""


def read_whole(samples: list[Sample]) -> list[LoadedSample]:
    """Load all samples; fail if any is skipped."""
    return list(SampleLoader(pytest.fail).load(samples))
