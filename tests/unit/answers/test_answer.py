"""Answers as JSON, as COCO, as a file and in a notebook."""

import dataclasses
import io
import json
import os
import sys
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mask_shapes import MASK_SHAPES, build_large_mask, build_mask
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from flmm.answers.answer import Answer
from flmm.answers.coco import CocoSegmentation
from flmm.answers.image_files import OUTPUT_FORMATS, check_output_path
from flmm.answers.json_types import CocoRLE
from flmm.answers.phrase import Phrase
from flmm.answers.run_lengths import encode_rle
from flmm.errors import InputError
from flmm.masks.low_resolution import LowResolutionLogits
from flmm.pictures.geometry import mask_box

TEXT = "A cat & <b>grass</b>, a cat"


def mask(*box: int) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = box
    values = np.zeros((30, 50), dtype=np.bool_)
    values[y0:y1, x0:x1] = True
    return values


def phrase(start: int, end: int, *box: int, score: float = 0.9) -> Phrase:
    x0, y0, x1, y1 = box
    return Phrase(
        TEXT[start:end], start, end, (start,), encode_rle(mask(*box)), (x0, y0, x1, y1), score
    )


@pytest.fixture
def answer() -> Answer:
    return Answer(
        text=TEXT,
        model="a-head",
        lmm="an-lmm",
        size=(30, 50),
        phrases=(
            phrase(0, 5, 4, 6, 20, 16),
            phrase(8, 20, 0, 20, 50, 30, score=0.123456),
            phrase(22, 27, 0, 0, 0, 0, score=0.0),
        ),
        timings={"picture": 0.0123456, "masks": 1.0},
        picture=Image.new("RGB", (50, 30), (90, 140, 200)),
    )


def answer_with(mask: NDArray[np.bool_]) -> Answer:
    """An answer with one phrase that has this mask."""
    box = mask_box(torch.from_numpy(mask)) or (0, 0, 0, 0)
    grounded = Phrase("it", 0, 2, (0,), encode_rle(mask), box, 0.5)
    height, width = mask.shape
    return Answer("it", "", "", (height, width), (grounded,), {}, Image.new("RGB", (1, 1)))


def decode_rle(rle: CocoRLE) -> NDArray[np.bool_]:
    return np.asarray(coco.decode(rle), dtype=np.bool_)


def test_dict_has_the_documented_keys(answer: Answer) -> None:
    content = json.loads(json.dumps(answer.to_dict()))
    assert list(content) == ["text", "model", "lmm", "size", "phrases", "timings"]
    assert content["text"] == TEXT
    assert (content["model"], content["lmm"], content["size"]) == ("a-head", "an-lmm", [30, 50])
    assert content["timings"] == {"picture": 0.0123, "masks": 1.0}
    for entry, grounded in zip(content["phrases"], answer.phrases, strict=True):
        assert list(entry) == ["text", "start", "end", "score", "box", "area", "mask", "picture"]
        assert TEXT[entry["start"] : entry["end"]] == entry["text"] == grounded.text
        assert np.array_equal(decode_rle(entry["mask"]), grounded.mask)
        assert entry["mask"]["size"] == [30, 50]
    assert [entry["area"] for entry in content["phrases"]] == [160, 500, 0]
    assert content["phrases"][0]["box"] == [4, 6, 20, 16]
    assert [entry["score"] for entry in content["phrases"]] == [0.9, 0.1235, 0.0]


def test_coco_has_a_category_for_each_distinct_phrase(answer: Answer) -> None:
    repeated = dataclasses.replace(answer, phrases=(*answer.phrases, answer.phrases[0]))
    content = repeated.to_coco("cat.png")
    assert content["images"] == [{"id": 1, "width": 50, "height": 30, "file_name": "cat.png"}]
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert list(names.values()) == ["A cat", "<b>grass</b>", "a cat"]
    for entry, grounded in zip(content["annotations"], repeated.phrases, strict=True):
        assert names[entry["category_id"]] == grounded.text
        assert entry["segmentation"] == grounded.rle
        assert (entry["image_id"], entry["iscrowd"], entry["area"]) == (1, 0, grounded.area)
    assert content["annotations"][0]["bbox"] == [4, 6, 16, 10]
    assert [entry["id"] for entry in content["annotations"]] == [1, 2, 3, 4]


@pytest.mark.parametrize("segmentation", ["rle", "polygon"])
@pytest.mark.parametrize("name", [*MASK_SHAPES, "20 megapixels"])
def test_pycocotools_reads_the_same_mask(name: str, segmentation: CocoSegmentation) -> None:
    mask = build_large_mask() if name == "20 megapixels" else build_mask(name)
    content = answer_with(mask).to_coco("a.png", segmentation=segmentation)
    dataset = COCO()
    dataset.dataset = json.loads(json.dumps(content))
    dataset.createIndex()
    (annotation,) = dataset.loadAnns(dataset.getAnnIds(imgIds=1))
    assert np.array_equal(dataset.annToMask(annotation), mask)
    assert annotation["area"] == mask.sum()


def test_unknown_segmentation_is_refused(answer: Answer) -> None:
    with pytest.raises(InputError, match="segmentation is 'png'; choose 'rle' or 'polygon'"):
        answer.to_coco(segmentation="png")  # type: ignore[arg-type]


def test_masks_are_saved_as_grey_png_files(answer: Answer, tmp_path: Path) -> None:
    files = answer.save_masks(tmp_path / "new" / "masks")
    assert [file.name for file in files] == ["01-A-cat.png", "02-b-grass-b.png", "03-a-cat.png"]
    for file, grounded in zip(files, answer.phrases, strict=True):
        with Image.open(file) as saved:
            assert (saved.format, saved.mode) == ("PNG", "L")
            assert np.array_equal(np.asarray(saved), grounded.mask * np.uint8(255))
    assert answer.save_masks(str(tmp_path / "new" / "masks")) == files


def test_masks_of_any_text_have_a_file(answer: Answer, tmp_path: Path) -> None:
    texts = ("../../etc/passwd", "\N{OX}" * 300, "ẞ\u0301" * 200, "…")
    phrases = tuple(dataclasses.replace(answer.phrases[0], text=text) for text in texts)
    files = dataclasses.replace(answer, phrases=phrases).save_masks(tmp_path)
    assert {file.parent for file in files} == {tmp_path}
    assert files[0].name == "01-etc-passwd.png"
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_unwritable_mask_folder_is_refused(answer: Answer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        answer.save_masks(tmp_path / "file")


def test_forms_of_other_libraries(answer: Answer) -> None:
    segments = answer.to_image_segmentation()
    picture, annotations = answer.to_annotated_image()
    assert picture is answer.picture
    for segment, (mask, label), grounded in zip(segments, annotations, answer.phrases, strict=True):
        assert segment["label"] == label == grounded.text
        assert segment["score"] == grounded.score
        assert segment["mask"].mode == "L"
        assert np.array_equal(np.asarray(segment["mask"]), grounded.mask * np.uint8(255))
        assert np.array_equal(mask, grounded.mask)


def test_supervision_is_asked_for(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match=r"pip install 'flmm\[supervision\]'"):
        answer.to_supervision()


def test_given_masks_have_no_probabilities(answer: Answer) -> None:
    with pytest.raises(InputError, match="the mask of 'A cat' was given"):
        _ = answer.phrases[0].probabilities


def test_many_masks_of_a_large_picture_take_little_memory() -> None:
    mask = build_large_mask(4000, 6000)
    logits = LowResolutionLogits(torch.zeros(1, 256, 256), partial(torch.reshape, shape=(1, 1)))
    tracemalloc.start()
    phrases = [
        Phrase("a", 0, 1, (0,), encode_rle(mask), (0, 0, 6000, 4000), 1.0, logits) for _ in range(8)
    ]
    kept, _ = tracemalloc.get_traced_memory()
    assert all(phrase.mask.any() for phrase in phrases)
    assert phrases[0].polygons()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Each also keeps 256 KiB of logits, which torch allocates.
    assert 64 * (kept / len(phrases) + 2**18) + (peak - kept) < 250e6


def test_fields_cannot_be_assigned(answer: Answer) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer.text = "something else"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer.phrases[0].score = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("suffix", [*OUTPUT_FORMATS, ".PNG"])
def test_file_suffix_sets_the_format(answer: Answer, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"overlay{suffix}"
    answer.save(str(path))
    with Image.open(path) as saved:
        assert saved.format == OUTPUT_FORMATS[suffix.lower()]
        assert saved.size == answer.overlay.size
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("overlay.gif", "no ending that names a picture format"),
        ("overlay", "choose one of .png, .jpg"),
        ("missing/overlay.png", "there is no folder"),
        ("folder.png", "is a folder"),
        ("x" * 300 + ".png", "cannot write"),
    ],
)
def test_bad_path_is_refused(answer: Answer, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=message) as caught:
        answer.save(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.png"]


def test_unwritable_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="is not writable; choose another"):
        check_output_path(tmp_path / "overlay.png")


def test_failed_save_keeps_the_old_file(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "overlay.png"
    path.write_bytes(b"the old one")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="No space left on device"):
        answer.save(path)
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_picture_too_large_for_the_format_is_refused(answer: Answer, tmp_path: Path) -> None:
    too_wide = dataclasses.replace(
        answer, picture=Image.new("RGB", (17000, 10)), size=(10, 17000), phrases=()
    )
    with pytest.raises(InputError, match=r"WEBP cannot hold 17000 x \d+ pixels; save .* as .png"):
        too_wide.save(tmp_path / "long.webp")
    assert not list(tmp_path.iterdir())


def test_notebook_shows_escaped_text_and_the_overlay(answer: Answer) -> None:
    markup = answer._repr_html_()
    assert "&lt;b&gt;grass&lt;/b&gt;" in markup
    assert "A cat</span> &amp; <span" in markup
    assert "<b>" not in markup
    assert markup.count("<span") == 3
    assert 'src="data:image/png;base64,' in markup
    with Image.open(io.BytesIO(answer._repr_png_())) as picture:
        assert picture.size == answer.overlay.size
