"""Readers of the field's data sets on tiny copies of them, and what they say of damaged files."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flmm.data.fixtures import (
    Fixture,
    write_panoptic_narratives,
    write_plain,
    write_reason_seg,
    write_refcoco,
)
from flmm.data.panoptic_narrative import read_panoptic_narratives
from flmm.data.plain import read_plain
from flmm.data.reading import Reading
from flmm.data.reason_seg import PaintedRegion, read_reason_seg
from flmm.data.refcoco import read_refcoco
from flmm.data.sample import CocoRegion, Sample
from flmm.errors import InputError
from flmm.stickers.draw import mention_mask
from flmm.stickers.language import caption, referring_expressions


def refcoco(fixture: Fixture) -> list[Sample]:
    return read_refcoco(fixture.folder, fixture.pictures, "train", "unc")


def narratives(fixture: Fixture) -> list[Sample]:
    return read_panoptic_narratives(fixture.folder, fixture.pictures, "val")


def plain(fixture: Fixture) -> list[Sample]:
    return read_plain(fixture.folder / "texts.jsonl")


def instructions(fixture: Fixture) -> list[Sample]:
    return read_reason_seg(fixture.folder)


Read = Callable[[Fixture], list[Sample]]
Write = Callable[[Path], Fixture]
FORMATS: list[tuple[Write, Read]] = [
    (write_refcoco, refcoco),
    (write_panoptic_narratives, narratives),
    (write_plain, plain),
    (write_reason_seg, instructions),
]


@pytest.mark.parametrize(("write", "read"), FORMATS)
def test_every_picture_and_text_is_read(write: Write, read: Read, tmp_path: Path) -> None:
    told: list[str] = []
    reading = Reading(told.append)
    samples = read(write(tmp_path))
    found = list(reading.read(samples))
    assert not told
    assert reading.pictures == len(samples) == len(found) > 1
    identities = [text.identity for sample in samples for text in sample.texts]
    assert len(set(identities)) == len(identities)
    for one in found:
        for read_text in one.texts:
            shape = (one.picture.height, one.picture.width)
            assert read_text.masks.shape == (len(read_text.text.phrases), *shape)


def test_expressions_mean_their_things(tmp_path: Path) -> None:
    fixture = write_refcoco(tmp_path)
    drawing = fixture.drawings[0]
    (first, *_) = Reading(pytest.fail).read(refcoco(fixture))
    found = {read.text.text: read.masks[0] for read in first.texts}
    expected = {
        expression: drawing.thing_masks[thing]
        for thing in range(len(drawing.scene.things))
        for expression in referring_expressions(drawing.scene, thing)
    }
    assert found.keys() == expected.keys()
    for expression, mask in expected.items():
        assert np.array_equal(found[expression], mask)


@pytest.mark.parametrize("form", FORMATS[1:3])
def test_captions_mean_their_regions(form: tuple[Write, Read], tmp_path: Path) -> None:
    write, read = form
    fixture = write(tmp_path)
    for one, drawing in zip(
        Reading(pytest.fail).read(read(fixture)), fixture.drawings, strict=True
    ):
        (text,) = one.texts
        told = caption(drawing.scene)
        assert text.text.text == told.answer
        spans = [(phrase.start, phrase.end) for phrase in text.text.phrases]
        assert spans == [(mention.start, mention.end) for mention in told.mentions]
        for mask, mention in zip(text.masks, told.mentions, strict=True):
            assert np.array_equal(mask, mention_mask(drawing, mention))


def test_missing_and_damaged_pictures_are_told_and_counted(tmp_path: Path) -> None:
    fixture = write_plain(tmp_path, pictures=4)
    (tmp_path / "0.jpg").unlink()
    (tmp_path / "2.jpg").write_bytes((tmp_path / "2.jpg").read_bytes()[:600])
    told: list[str] = []
    reading = Reading(told.append)
    assert [one.sample.picture.name for one in reading.read(plain(fixture))] == ["1.jpg", "3.jpg"]
    assert (reading.pictures, reading.skipped_pictures, reading.skipped_texts) == (2, 2, 0)
    assert len(told) == 2
    assert "0.jpg" in told[0]
    assert reading.summary == "2 pictures read; skipped 2 pictures and 0 texts of others"


def test_texts_whose_regions_do_not_fit_are_told_and_counted(tmp_path: Path) -> None:
    fixture = write_refcoco(tmp_path, pictures=3)
    content = json.loads((tmp_path / "instances.json").read_text())
    first, *others = [one for one in content["annotations"] if one["image_id"] == 100]
    assert others, "the picture would have no other text"
    spoilt = [first, *(one for one in content["annotations"] if one["image_id"] == 102)]
    for annotation in spoilt:
        annotation["segmentation"]["counts"].append(5)
    (tmp_path / "instances.json").write_text(json.dumps(content))
    told: list[str] = []
    reading = Reading(told.append)
    samples = refcoco(fixture)
    (read,) = reading.read(samples)
    assert len(samples) == 2
    lost = len(samples[0].texts) - len(read.texts)
    assert lost > 0
    assert (reading.pictures, reading.skipped_pictures, reading.skipped_texts) == (1, 1, lost)
    assert len(told) == lost + len(samples[1].texts)


def test_pickle_that_wants_to_run_something_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path}/ran",)

    fixture = write_refcoco(tmp_path)
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([Trap()]))
    with pytest.raises(InputError, match=r"refs\(unc\)\.p' is refused: it names .*system"):
        refcoco(fixture)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("write", "read", "name"),
    [
        (write_refcoco, refcoco, "refs(unc).p"),
        (write_refcoco, refcoco, "instances.json"),
        (write_panoptic_narratives, narratives, "png_coco_val2017.json"),
        (write_panoptic_narratives, narratives, "panoptic_val2017.json"),
        (write_plain, plain, "texts.jsonl"),
        (write_reason_seg, instructions, "1.json"),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "missing", "other"])
def test_damaged_file_is_named(
    write: Write, read: Read, name: str, damage: str, tmp_path: Path
) -> None:
    fixture = write(tmp_path)
    file = tmp_path / name
    if damage == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2 + 3])
    elif damage == "missing":
        file.unlink()
    else:
        file.write_bytes(pickle.dumps(7) if name.endswith(".p") else b'{"no": 1}')
    if damage == "missing" and name == "1.json":
        assert len(read(fixture)) == 2, "ReasonSeg is whatever lies in its folder"
        return
    with pytest.raises(InputError) as caught:
        read(fixture)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"phrases": [{"start": 2, "end": 999, "segmentation": []}]}, "line 2.*2..999 is outside"),
        ({"phrases": [{"start": -1, "end": 3, "segmentation": []}]}, "line 2: phrases.0.start"),
        ({"phrases": [{"start": 3, "end": 3, "segmentation": []}]}, "line 2.*3..3 is outside"),
        ({"text": ""}, "line 2: text"),
        ({"image": None}, "line 2: image"),
    ],
)
def test_wrong_line_is_numbered(change: dict[str, object], told: str, tmp_path: Path) -> None:
    fixture = write_plain(tmp_path)
    lines = (tmp_path / "texts.jsonl").read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=told):
        plain(fixture)


def test_part_that_is_not_there(tmp_path: Path) -> None:
    fixture = write_refcoco(tmp_path)
    with pytest.raises(InputError, match="no part 'tset'; choose one of testA, train"):
        read_refcoco(fixture.folder, fixture.pictures, "tset", "unc")


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        [[1.0, 2.0, 3.0, 4.0]],
        [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1.0]],
        [[1.0, 2.0, 3.0, 4.0, 5.0, float("nan")]],
        {"size": [4, 6], "counts": [10, 15]},
        {"size": [4, 6], "counts": [-1, 25]},
        {"size": [4, 6], "counts": [1.5, 22.5]},
        {"size": [6, 4], "counts": [10, 14]},
        {"size": [4, 6], "counts": "not run lengths ~~~~"},
        {"size": [4, 6]},
        {"counts": [24]},
    ],
)
def test_segmentation_that_does_not_fit_is_refused(
    segmentation: list[list[float]] | dict[str, object],
) -> None:
    with pytest.raises(InputError):
        CocoRegion(segmentation).mask((4, 6))


def test_polygons_and_run_lengths_mean_the_same() -> None:
    expected = np.zeros((4, 6), dtype=bool)
    expected[1:3, 2:5] = True
    square = CocoRegion([[2.0, 1.0, 5.0, 1.0, 5.0, 3.0, 2.0, 3.0]])
    listed = CocoRegion({"size": [4, 6], "counts": [9, 2, 2, 2, 2, 2, 5]})
    for region in (square, listed):
        assert np.array_equal(region.mask((4, 6)), expected)


def test_instructions_mean_what_is_painted_last(tmp_path: Path) -> None:
    fixture = write_reason_seg(tmp_path)
    found = list(Reading(pytest.fail).read(instructions(fixture)))
    assert [one.texts[0].text.kind for one in found] == ["instruction", "expression", "instruction"]
    for one, drawing in zip(found, fixture.drawings, strict=True):
        assert "café" in one.texts[0].text.text
        things = drawing.thing_masks
        for text in one.texts:
            assert not (text.masks & text.ignored).any()
            assert text.ignored.any() == (len(things) > 1)
            assert text.masks[0][things[0] & ~text.ignored[0]].all()


def test_smaller_polygons_are_painted_over_larger_ones() -> None:
    large, small = (
        (0.0, 0.0, 6.0, 0.0, 6.0, 4.0, 0.0, 4.0),
        (1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0),
    )
    for polygons in (
        (("target", large), ("ignore", small)),
        (("ignore", small), ("target", large)),
    ):
        target = PaintedRegion(polygons, "target").mask((4, 6))
        ignored = PaintedRegion(polygons, "ignore").mask((4, 6))
        assert ignored.sum() == 4
        assert ignored[1:3, 1:3].all()
        assert np.array_equal(target, ~ignored)


def test_folder_without_instructions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \.json in"):
        read_reason_seg(tmp_path)
