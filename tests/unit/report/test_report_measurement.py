"""The report's overlaps and maps against slow references, intervals, tables on disk."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from flmm.data.sample import Sample
from flmm.data.sources import PlainSource
from flmm.errors import InputError
from flmm.report.ablations.map_sources import similarity_maps
from flmm.report.context import ReportContext
from flmm.report.data import read_source_data
from flmm.report.extraction import ExtractedPicture
from flmm.report.overlaps import Interval, OverlapTable, measure_overlaps, share_interval
from flmm.report.thresholds import (
    THRESHOLDS,
    ThresholdSearch,
    candidate_maps,
    normalise_by_max,
    threshold_overlaps,
)
from flmm.types import ImageGeometry

GEOMETRY = ImageGeometry((12, 12), (12, 12), (0, 0), (12, 12), (4, 4))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_threshold_overlaps_match_each_mask() -> None:
    maps = random(3, 9, 7)
    # A value equal to a threshold is not above it.
    maps[0, 0, :3] = torch.tensor([0.0, THRESHOLDS[4], 1.0])
    truth, valid = random(9, 7, seed=1) > 0.6, random(9, 7, seed=2) > 0.2
    overlap = threshold_overlaps(maps, truth, valid)
    for map_index, values in enumerate(maps):
        for index, threshold in enumerate(THRESHOLDS):
            mask = (values > torch.tensor(threshold)) & valid
            assert overlap.intersection[map_index, index] == (mask & truth).sum()
            assert overlap.union[map_index, index] == (mask | (truth & valid)).sum()


def test_best_map_is_chosen_at_its_best_threshold() -> None:
    truth = torch.zeros(8, 8, dtype=torch.bool)
    truth[2:5, 3:6] = True
    noise = normalise_by_max(random(8, 8))
    exact = torch.where(truth, 0.62, 0.55)
    search = ThresholdSearch()
    search.add(threshold_overlaps(torch.stack([noise, exact]), truth, torch.ones_like(truth)))
    best = search.best_thresholds()
    assert best is not None
    assert best.best_index(range(2)) == 1
    assert best.scores[1] == 1
    assert 0.55 <= best.thresholds[1] < 0.62
    assert ThresholdSearch().best_thresholds() is None


def test_candidates_are_the_mean_the_layers_and_the_heads() -> None:
    attention = random(6, 4, 4)
    maps = candidate_maps(attention, 3, GEOMETRY, (12, 12))
    assert maps.shape == (1 + 2 + 6, 12, 12)
    assert torch.allclose(maps.amax((1, 2)), torch.ones(9))
    for layer in range(2):
        heads = maps[3 + 3 * layer : 6 + 3 * layer]
        assert torch.allclose(maps[1 + layer], normalise_by_max(heads.mean(0)))
    assert torch.allclose(maps[0], normalise_by_max(maps[3:].mean(0)))


def test_similarity_is_the_mean_cosine_scaled() -> None:
    phrase, image = random(2, 3, 5) - 0.5, random(2, 4, 6, 5, seed=1) - 0.5
    maps = similarity_maps(phrase, image)
    for layer in range(2):
        expected = torch.zeros(4, 6)
        for row in range(4):
            for column in range(6):
                for token in range(3):
                    expected[row, column] += torch.cosine_similarity(
                        phrase[layer, token], image[layer, row, column], dim=0
                    )
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        assert torch.allclose(maps[layer], expected, atol=1e-5)


def build_table(iou: list[float], pictures: list[int]) -> OverlapTable:
    count = len(iou)
    return OverlapTable(
        torch.tensor(pictures),
        torch.zeros(count, dtype=torch.int64),
        torch.tensor([1, 0] * (count // 2)),
        100 * torch.tensor(iou, dtype=torch.float64)[:, None],
        torch.full((count, 1), 100.0, dtype=torch.float64),
    )


def test_scores_and_their_intervals() -> None:
    table = build_table([0.2, 0.4, 0.6, 0.8], [3, 3, 7, 7])
    (score,) = table.compute_scores(table.select_rows("caption"))
    assert score.phrases == 4
    assert score.cumulative_iou.value == pytest.approx(50)
    # A resample of two pictures has one of them twice, or both.
    assert (score.mean_iou.low, score.mean_iou.high) == pytest.approx((30, 70))
    (things,) = table.compute_scores(table.select_rows(None, "things"))
    assert things.mean_iou.value == pytest.approx(40)
    assert not table.select_rows("expression").any()
    (same,) = (whole := build_table([0.5] * 6, [0, 0, 1, 1, 2, 2])).compute_scores(
        whole.select_rows(None)
    )
    assert (same.mean_iou.low, same.mean_iou.high) == pytest.approx((50, 50))


def test_table_is_saved_and_loaded(tmp_path: Path) -> None:
    table = build_table([0.2, 0.4], [0, 1])
    file = tmp_path / "rows.safetensors"
    table.save(file)
    loaded = OverlapTable.load(file)
    assert loaded is not None
    assert torch.equal(loaded.intersection, table.intersection)
    file.write_bytes(file.read_bytes()[:-5])
    assert OverlapTable.load(file) is None
    assert OverlapTable.load(tmp_path / "nothing") is None


def test_source_data_are_split_and_too_few_are_refused(tmp_path: Path) -> None:
    from flmm.data.fixtures import write_plain

    write_plain(tmp_path, 5)
    source = PlainSource(name="texts", file=tmp_path / "texts.jsonl")
    data = read_source_data(source, Path(), 10, 2, 1)
    assert (len(data.measured), len(data.calibration), len(data.training)) == (2, 2, 1)
    pictures = [sample.picture for part in (data.measured, data.calibration, data.training)
                for sample in part]  # fmt: skip
    assert len(set(pictures)) == 5
    with pytest.raises(InputError, match="has 5 pictures; calibration and training take"):
        read_source_data(source, Path(), 10, 3, 2)


def test_share_interval_resamples_pictures() -> None:
    share = share_interval([[True, True, True], [], [False], [True, False]])
    assert share is not None
    assert share.value == pytest.approx(100 * 4 / 6)
    assert share.low < share.value < share.high
    # All pictures have the same share, so that all resamples have it.
    assert share_interval([[True, False]] * 5) == Interval(50, 50, 50)
    assert share_interval([[], []]) is None


def test_only_pictures_that_are_not_on_disk_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flmm.report.overlaps._PICTURES_PER_FILE", 2)
    measured: list[int] = []
    progress: list[tuple[int, int, str]] = []

    def measure_picture(extracted: ExtractedPicture) -> OverlapTable:
        index = cast(int, extracted)
        measured.append(index)
        number = torch.tensor([index])
        return OverlapTable(number, number * 0, number * 0, number[None], number[None])

    context = cast(
        ReportContext,
        SimpleNamespace(
            work_folder=tmp_path,
            cache_key={},
            on_progress=lambda *call: progress.append(call),
            picture_extractor=SimpleNamespace(extract=lambda _, indices: iter(indices)),
        ),
    )
    samples = [cast(Sample, None)] * 7

    def measure() -> list[int]:
        return measure_overlaps(context, "ground 1", samples, measure_picture).picture.tolist()

    assert measure() == measured == list(range(7))
    assert progress == [(done, 7, "ground") for done in (0, 2, 4, 6, 7)]
    for name in ("000000", "000004"):
        (file,) = tmp_path.rglob(f"{name}.safetensors")
        file.unlink()
    measured.clear()
    progress.clear()
    assert measure() == list(range(7))
    assert measured == [0, 1, 4, 5]
    # What is on disk in one step: it says nothing about the time left.
    assert progress == [(done, 7, "ground") for done in (3, 5, 7)]
