"""Parts of real files that cannot be read: each costs one text, is told and counted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from data_formats import (
    COCO,
    CONVERSATIONS,
    FLICKR_CAPTIONS,
    GROUND_TRUTH,
    NARRATIVES,
    PLAIN,
    REASON_SEG,
    REFCOCO,
    REFCOCOG_CAPTIONS,
    VISCOT,
    Format,
    read_whole,
)

from flmm.data.sample_loader import SampleLoader
from flmm.errors import InputError

SEGMENTATIONS: tuple[object, ...] = (
    None, "", 7, [], {}, [None], [[]], [[5.0, 5.0, 40.0, 40.0]], [5.0, 5.0, 40.0, 5.0, 40.0, 40.0],
    [[[5.0, 5.0], [40.0, 5.0], [40.0, 40.0]]], [[5.0, 5.0, 40.0, 5.0, 40.0, 40.0, 5.0]],
    [[float("nan"), 5.0, 40.0, 5.0, 40.0, 40.0]], {"size": [96, 96], "counts": [1, 2, 3]},
    {"size": [96, 95], "counts": [9120]}, {"size": [96, 96], "counts": None},
    {"size": None, "counts": "PP"}, [{"size": [96, 96], "counts": [9216]}],
)  # fmt: skip
POINTS: tuple[object, ...] = (
    None, "", 7, [], [None], [[5.0]], [[5.0, 5.0]], [[5.0, 5.0], [40.0, 40.0]],
    [[5.0, 5.0, 1.0], [40.0, 5.0, 1.0], [40.0, 40.0, 1.0]],
    [[float("nan"), 5.0], [40.0, 5.0], [40.0, 40.0]],
)  # fmt: skip


def change(file: Path, edit: Callable[[object], None]) -> None:
    """Change a JSON file, or the first line of a JSONL file."""
    first, *others = [file.read_text()] if file.suffix == ".json" else file.read_text().split("\n")
    content = json.loads(first)
    edit(content)
    file.write_text("\n".join([json.dumps(content), *others]))


def set_segmentation(form: Format, content: object, value: object) -> None:
    """Set the first segmentation of a file."""
    if form is CONVERSATIONS:
        assert isinstance(content, list)
        next(iter(content[0]["groundings"].values()))["rle_masks"][0] = value
        return
    if form is REFCOCOG_CAPTIONS:
        assert isinstance(content, list)
        content[0]["0"]["refs"][0]["segmentation"] = value
        return
    assert isinstance(content, dict)
    if form is FLICKR_CAPTIONS:
        content["annotations"][0]["sam_mask"] = value
        return
    content["phrases" if form is PLAIN else "annotations"][0]["segmentation"] = value


def count_lost_texts(form: Format, folder: Path) -> int:
    """Return how many texts are skipped; each must be told in one line."""
    samples = form.read(folder)
    messages: list[str] = []
    loaded = list(SampleLoader(messages.append).load(samples))
    lost = sum(len(sample.texts) for sample in samples) - sum(len(one.texts) for one in loaded)
    assert len(messages) == lost
    assert all(line.startswith("skipped text") and "\n" not in line for line in messages)
    return lost


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A fixture of each format by its name."""
    forms = (COCO, REFCOCO, PLAIN, CONVERSATIONS, GROUND_TRUTH, REASON_SEG, REFCOCOG_CAPTIONS,
             FLICKR_CAPTIONS)  # fmt: skip
    folders = {form.name: tmp_path_factory.mktemp(form.kind) for form in forms}
    for form in forms:
        form.write(folders[form.name])
    return folders


@pytest.mark.parametrize("value", SEGMENTATIONS, ids=repr)
@pytest.mark.parametrize(
    ("form", "name"),
    [
        (COCO, "instances.json"),
        (REFCOCO, "instances.json"),
        (PLAIN, "texts.jsonl"),
        (CONVERSATIONS, "OpenPsgGCG_val.json"),
        (GROUND_TRUTH, "val_gcg_coco_mask_gt.json"),
        (REFCOCOG_CAPTIONS, "RefCOCOg_GCG_val.json"),
        (FLICKR_CAPTIONS, "flickr_mergedGT_GCG_val.json"),
    ],
    ids=lambda parameter: getattr(parameter, "kind", parameter),
)
def test_segmentation_that_cannot_be_drawn_costs_its_text(
    form: Format, name: str, value: object, undamaged: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(undamaged[form.name], folder)
    assert count_lost_texts(form, folder) == 0
    change(folder / name, lambda content: set_segmentation(form, content, value))
    first = form.read(folder)[0]

    expected = 1
    if form is REFCOCO:  # a region has several expressions
        regions = [text.phrases[0].regions for text in first.texts]
        expected = regions.count(regions[0])
    assert count_lost_texts(form, folder) == expected


@pytest.mark.parametrize("value", POINTS, ids=repr)
def test_instructions_of_a_shape_that_cannot_be_drawn_are_skipped(
    value: object, undamaged: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(undamaged[REASON_SEG.name], folder)

    def set_points(content: object) -> None:
        assert isinstance(content, dict)
        content["shapes"][0]["points"] = value

    change(folder / "0.json", set_points)
    assert count_lost_texts(REASON_SEG, folder) == 2


def test_annotation_without_a_segmentation_costs_its_text(tmp_path: Path) -> None:
    COCO.write(tmp_path)

    def remove(content: object) -> None:
        assert isinstance(content, dict)
        del content["annotations"][0]["segmentation"]
        # As some tools write it.
        content["annotations"][1]["iscrowd"] = False
        content["categories"][0]["isthing"] = None

    change(tmp_path / COCO.file, remove)
    assert count_lost_texts(COCO, tmp_path) == 1


@pytest.mark.parametrize("suffix", [".png", ".jpeg"])
def test_question_whose_two_images_have_another_suffix_is_read(suffix: str, tmp_path: Path) -> None:
    VISCOT.write(tmp_path)
    before = len(VISCOT.read(tmp_path)[0].texts)

    def rename_first(content: object) -> None:
        assert isinstance(content, list)
        name = content[0]["image"][0]
        content[0]["image"][0] = name.replace(".jpg", ".png")
        content[0]["image"][1] = content[0]["image"][1].replace(".jpg", ".jpeg")
        for entry in content[1:]:
            if entry["image"][0] == name:
                entry["image"] = [image.replace(".jpg", suffix) for image in entry["image"]]

    change(tmp_path / VISCOT.file, rename_first)
    picture = tmp_path / "cot" / "gqa" / "0.jpg"
    picture.rename(picture.with_suffix(suffix))
    first, *_ = read_whole(VISCOT.read(tmp_path))
    assert first.sample.picture == picture.with_suffix(suffix)
    assert len(first.texts) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image", ["cot/gqa/0.jpg", "cot/gqa/1.jpg###[1, 1, 40, 40]"]),
        ("image", ["cot/gqa/0.jpg", "cot/gqa/0.jpg###[1, 1, 40]"]),
        ("image", ["cot/gqa/0.jpg", "cot/gqa/0.jpg"]),
        ("image", ["cot/gqa/0.jpg"]),
        ("conversations", []),
        ("conversations", [{"from": "human", "value": "<image>"}] * 4),
    ],
)
def test_wrong_entry_of_viscot_costs_its_question(name: str, value: object, tmp_path: Path) -> None:
    VISCOT.write(tmp_path)

    def replace_first(content: object) -> None:
        assert isinstance(content, list)
        content[0][name] = value

    change(tmp_path / VISCOT.file, replace_first)
    assert count_lost_texts(VISCOT, tmp_path) == 1

    def replace_all(content: object) -> None:
        assert isinstance(content, list)
        for entry in content:
            entry[name] = value

    change(tmp_path / VISCOT.file, replace_all)
    with pytest.raises(InputError, match=r"gqa\.json' has no entry .*; download it again"):
        VISCOT.read(tmp_path)


def test_answer_that_is_a_bare_number_is_read(tmp_path: Path) -> None:
    VISCOT.write(tmp_path)

    def set_answer(content: object) -> None:
        assert isinstance(content, list)
        content[0]["conversations"][3]["value"] = 5

    change(tmp_path / VISCOT.file, set_answer)
    assert VISCOT.read(tmp_path)[0].texts[0].answer == "5"


def test_box_of_many_decimals_is_read(tmp_path: Path) -> None:
    VISCOT.write(tmp_path)

    def set_box(content: object) -> None:
        assert isinstance(content, list)
        content[0]["image"][1] = "cot/gqa/0.jpg###[1.0, 2.333333333333333, 40.66666666666667, 50]"

    change(tmp_path / VISCOT.file, set_box)
    mask = read_whole(VISCOT.read(tmp_path))[0].texts[0].masks[0]
    assert mask.sum() == 40 * 48


def test_pictures_are_found_under_another_suffix(tmp_path: Path) -> None:
    for form, picture in ((REASON_SEG, "0.jpg"), (GROUND_TRUTH, "val_test/sa_0.jpg")):
        form.write(tmp_path)
        (tmp_path / picture).rename((tmp_path / picture).with_suffix(".png"))
        assert read_whole(form.read(tmp_path))[0].sample.picture.suffix == ".png"


def test_labels_of_reason_seg_are_read_as_by_its_authors(tmp_path: Path) -> None:
    REASON_SEG.write(tmp_path)
    (before, *_) = read_whole(REASON_SEG.read(tmp_path))

    def rename(content: object) -> None:
        assert isinstance(content, dict)
        names = {"target": "Target area", "ignore": "Ignored", "flag": "Flag"}
        for shape in content["shapes"]:
            shape["label"] = names[shape["label"]]
        content["text"].append(" ")

    change(tmp_path / "0.json", rename)
    (tmp_path / "._0.json").write_bytes(b"\x00\x05\x16\x07")
    assert count_lost_texts(REASON_SEG, tmp_path) == 1, "the text without words"
    after = next(iter(SampleLoader(print).load(REASON_SEG.read(tmp_path))))
    assert (after.texts[0].masks == before.texts[0].masks).all()
    assert (after.texts[0].ignored_masks == before.texts[0].ignored_masks).all()


def test_positions_are_counted_without_quotation_marks(tmp_path: Path) -> None:
    CONVERSATIONS.write(tmp_path)
    (before, *_) = read_whole(CONVERSATIONS.read(tmp_path))

    def quote(content: object) -> None:
        assert isinstance(content, list)
        content[0]["caption"] = f'"{content[0]["caption"]}"'
        content[1]["groundings"]["nothing"] = {"token_positives": None, "rle_masks": None}

    change(tmp_path / CONVERSATIONS.file, quote)
    assert CONVERSATIONS.read(tmp_path)[0].texts[0] == before.texts[0].text
    assert count_lost_texts(CONVERSATIONS, tmp_path) == 1, "the one with a phrase of no position"


def test_utterances_are_found_in_another_case_and_with_other_white_space(tmp_path: Path) -> None:
    NARRATIVES.write(tmp_path)
    (before, *_) = read_whole(NARRATIVES.read(tmp_path))

    def edit(content: object) -> None:
        assert isinstance(content, list)
        for segment in content[0]["segments"]:
            if segment["noun"]:
                segment["utterance"] = segment["utterance"].upper().replace(" ", "  ")
            else:
                segment["utterance"] = "not said any more"
        next(part for part in content[-1]["segments"] if part["noun"])["utterance"] = "not said"

    change(tmp_path / NARRATIVES.file, edit)
    assert NARRATIVES.read(tmp_path)[0].texts[0] == before.texts[0].text
    assert count_lost_texts(NARRATIVES, tmp_path) == 1, "the one with a phrase that it does not say"


@pytest.mark.parametrize("form", [COCO, VISCOT, GROUND_TRUTH], ids=lambda form: form.name)
def test_byte_order_mark_is_passed_over(form: Format, tmp_path: Path) -> None:
    form.write(tmp_path)
    expected = form.read(tmp_path)
    file = tmp_path / form.file
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert form.read(tmp_path) == expected
