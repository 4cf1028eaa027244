"""Every format that can be read: how its tiny copy is written, and how a config names it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from flmm.data.fixtures import (
    DatasetFixture,
    write_coco,
    write_grounded_conversations,
    write_panoptic_narratives,
    write_plain,
    write_reason_seg,
    write_refcoco,
    write_viscot,
)
from flmm.data.sample import Sample
from flmm.data.sample_loader import LoadedSample, SampleLoader
from flmm.data.sources import check_sources


@dataclass(frozen=True)
class Format:
    """One format; `file` is that of its files which most depends on."""

    kind: str
    write: Callable[[Path], DatasetFixture]
    file: str
    entry: dict[str, str]

    def read(self, folder: Path) -> list[Sample]:
        """The samples of the copy in `folder`, through a config's entry."""
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
REASON_SEG = Format("reason_seg", write_reason_seg, "1.json", {"folder": "."})
VISCOT = Format(
    "viscot", write_viscot, "benchmark/gqa.json", {"file": "benchmark/gqa.json", "pictures": "."}
)
COCO = Format(
    "coco", write_coco, "instances.json", {"file": "instances.json", "pictures": "pictures"}
)
PLAIN = Format("plain", write_plain, "texts.jsonl", {"file": "texts.jsonl"})

FORMATS = (REFCOCO, NARRATIVES, CONVERSATIONS, REASON_SEG, VISCOT, COCO, PLAIN)

FILES = (
    *((one, one.file) for one in FORMATS),
    (REFCOCO, "refs(unc).p"),
    (NARRATIVES, "panoptic_val2017.json"),
)
"""Each file with texts or masks, and whose it is."""


def read_whole(samples: list[Sample]) -> list[LoadedSample]:
    """All samples; nothing may be skipped."""
    return list(SampleLoader(pytest.fail).load(samples))
