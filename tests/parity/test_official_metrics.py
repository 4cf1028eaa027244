"""Parity of the metrics with the authors' evaluation."""

import json
from pathlib import Path

import pytest
from conformance import case_paths, read_case

from flmm.evaluate.metrics import compute_overlap, narrative_scores, referring_scores


@pytest.mark.parametrize("path", case_paths("metrics"), ids=lambda path: path.name)
def test_scores_agree(path: Path) -> None:
    case = read_case(path)
    expected = json.loads(case.metadata["expected"])
    overlap = compute_overlap(case.tensors["predicted"], case.tensors["target"])
    referring = referring_scores(overlap)
    assert {"cIoU": referring.cumulative_iou, "mIoU": referring.mean_iou} == pytest.approx(
        expected["refseg"], abs=1e-3
    )
    narrative = narrative_scores(overlap, case.tensors["is_thing"], case.tensors["is_plural"])
    assert vars(narrative) == pytest.approx(expected["png"], abs=1e-3)
