"""Every format holds every mask bit by bit, and what users may get wrong is said."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from exported import READERS, all_shapes, assert_same, export, without_empty, write_results
from mask_shapes import build_mask

from flmm.errors import InputError
from flmm.exports.formats import ExportFormat
from flmm.exports.labels import LabelMap, read_label_map
from flmm.exports.pictures import LabelledPictures
from flmm.exports.results import BatchResults
from flmm.exports.run import EXPORTERS, export_pictures

RING = build_mask("ring")
FORMATS = tuple(EXPORTERS)


@pytest.mark.parametrize("export_format", FORMATS)
def test_masks_come_back(export_format: ExportFormat, tmp_path: Path) -> None:
    masks = all_shapes()
    folder, counts = export(masks, export_format, tmp_path)
    assert_same(READERS[export_format](folder, masks), without_empty(masks))
    assert counts.pictures == len(masks)
    assert counts.empty == 3
    assert not list(tmp_path.glob(".flmm*"))


@pytest.mark.parametrize("export_format", FORMATS)
def test_labels_of_phrases(export_format: ExportFormat, tmp_path: Path) -> None:
    masks = {
        "a.png": [("The Dog\n on the left", RING), ("grass", ~RING), ("a cat", RING)],
        "b.png": [("nothing known", RING)],
    }
    labels = LabelMap({"a cat": "animal", "the dog on the left": "animal", "grass": "stuff"})
    folder, counts = export(masks, export_format, tmp_path, labels)
    expected = {"a.png": [("animal", RING), ("stuff", ~RING), ("animal", RING)], "b.png": []}
    assert_same(READERS[export_format](folder, masks), expected)
    assert (counts.masks, counts.unlabelled) == (3, 1)


def test_several_answers_about_a_picture_are_one_picture(tmp_path: Path) -> None:
    first = write_results(tmp_path / "first.jsonl", {"a.png": [("it", RING)]}).read_text()
    first = first.replace('"id": "a.png"', '"id": "a.png#2"')
    other = write_results(
        tmp_path / "other.jsonl", {"b.png": [("sky", ~RING)], "a.png": [("grass", ~RING)]}
    ).read_text()
    results = tmp_path / "results.jsonl"
    results.write_text(first + other)
    pictures = LabelledPictures(BatchResults(results))
    assert [(picture.image, picture.number) for picture in pictures] == [("b.png", 1), ("a.png", 2)]
    export_pictures(pictures, "coco", tmp_path / "out")
    expected = {"a.png": [("it", RING), ("grass", ~RING)], "b.png": [("sky", ~RING)]}
    assert_same(READERS["coco"](tmp_path / "out", expected), expected)


def test_results_that_are_added_meanwhile_wait_for_the_next_reading(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results.jsonl", {"a.png": [("it", RING)]})
    line = results.read_text()
    read = []
    for record in BatchResults(results).records():
        read.append(record.id)
        results.write_text(line + line.replace("a.png", "b.png"))
    assert read == ["a.png"]
    assert [record.id for record in BatchResults(results).records()] == ["a.png", "b.png"]


@pytest.mark.parametrize("export_format", ["yolo-seg", "labelme"])
def test_rows_of_a_parquet_file_are_several_pictures(
    export_format: ExportFormat, tmp_path: Path
) -> None:
    folder, _ = export(
        {f"a.parquet#{row}": [("it", RING)] for row in (1, 2)}, export_format, tmp_path
    )
    stems = {file.stem for file in folder.rglob("a.parquet*")}
    assert stems == {"a.parquet#1", "a.parquet#2"}


def test_several_answers_in_a_result_and_errors(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results.jsonl", {"a.png": [("it", RING)]})
    answer = json.loads(results.read_text())["answer"]
    lines = [
        {"id": "1", "version": "0", "task": {"image": "old.png"}, "answer": answer},
        {"id": "2", "version": "0", "task": {"image": "b.png"}, "error": "it is no picture"},
        {"id": "1", "version": "1", "task": {"image": "a.png"}, "answers": [answer, answer]},
    ]
    results.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"task": {"ima')
    batch = BatchResults(results)
    assert [image for image, _ in batch] == ["a.png", "a.png"]
    assert batch.num_failed == 1


def test_scores_ids_and_names_in_coco(tmp_path: Path) -> None:
    masks = {"a.png": [("it", RING), ("sky", ~RING)], "b.png": [("it", RING)]}
    folder, _ = export(masks, "coco", tmp_path, image_prefix="pictures/")
    content = json.loads((folder / "annotations.json").read_text())
    assert [entry["id"] for entry in content["annotations"]] == [1, 2, 3]
    assert [entry["image_id"] for entry in content["annotations"]] == [1, 1, 2]
    assert [entry["category_id"] for entry in content["annotations"]] == [1, 2, 1]
    assert {entry["score"] for entry in content["annotations"]} == {0.75}
    assert [image["file_name"] for image in content["images"]] == [
        "pictures/a.png", "pictures/b.png",
    ]  # fmt: skip


def test_label_studio_knows_what_the_masks_are_of(tmp_path: Path) -> None:
    masks = {"a.png": [("A \x07bell", RING)], "b.png": [("x", np.zeros_like(RING))]}
    folder, _ = export(masks, "label-studio", tmp_path, image_prefix="/data/local-files/?d=")
    task, other = json.loads((folder / "tasks.json").read_text())
    assert task["data"] == {"image": "/data/local-files/?d=a.png"}
    (prediction,) = task["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("head", 0.75)
    (result,) = prediction["result"]
    assert result["meta"] == {"text": ["A \x07bell"]}
    config = (folder / "config.xml").read_text(encoding="utf-8")
    assert f'<Label value="{result["value"]["brushlabels"][0]}" background=' in config
    assert f'name="{result["from_name"]}" toName="{result["to_name"]}"' in config
    assert other["predictions"][0]["result"] == []


def test_cvat_points_are_those_of_its_description(tmp_path: Path) -> None:
    mask = np.zeros((4, 6), dtype=np.bool_)
    mask[1, 2:4] = mask[2, 3:5] = True
    folder, _ = export({"a.png": [("it", mask)]}, "cvat", tmp_path)
    text = (folder / "annotations.xml").read_text()
    assert 'left="2" top="1" width="3" height="2" rle="0, 2, 2, 2"' in text
    assert json.loads((folder / "labels.json").read_text())[0]["name"] == "it"


@pytest.mark.parametrize("export_format", ["yolo-seg", "labelme"])
def test_names_that_differ_in_their_endings_are_refused(
    export_format: ExportFormat, tmp_path: Path
) -> None:
    masks = {"a.jpg": [("it", RING)], "a.png": [("it", RING)]}
    with pytest.raises(InputError, match=r"two pictures would be 'a\.\w+', one of them 'a.png'"):
        export(masks, export_format, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


@pytest.mark.parametrize("export_format", ["yolo-seg", "labelme", "masks"])
def test_files_stay_in_the_folder(export_format: ExportFormat, tmp_path: Path) -> None:
    masks = {"../../a.png": [("../it", RING)], "/b/c.png": [("/it", RING)]}
    (tmp_path / "in").mkdir()
    export(masks, export_format, tmp_path / "in")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["out", "results.jsonl"]


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(InputError, match="has files already; choose a new folder"):
        export({"a.png": [("it", RING)]}, "coco", tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_pictures_of_several_sizes_are_refused(tmp_path: Path) -> None:
    one = write_results(tmp_path / "one.jsonl", {"a.png": [("it", RING)]}).read_text()
    two = write_results(tmp_path / "two.jsonl", {"a.png": [("it", RING[1:])]}).read_text()
    (tmp_path / "both.jsonl").write_text(one + two.replace('"id": "a', '"id": "b'))
    with pytest.raises(InputError, match=r"'a.png' have several sizes \[\(11, 17\), \(12, 17\)\]"):
        list(LabelledPictures(BatchResults(tmp_path / "both.jsonl")))


@pytest.mark.parametrize(
    "line", ["", "[]", "{}", "7", '{"id": 1, "version": "x"}', '{"id": 1, "version": "0"}',
             '{"id": 1, "version": "0", "task": {"image": "a"}, "answer": {}}']
)  # fmt: skip
def test_other_files_are_refused(line: str, tmp_path: Path) -> None:
    file = tmp_path / "other.jsonl"
    file.write_text(f"{line}\n")
    with pytest.raises(InputError, match=r"(line 1, is no|result '1' is none) .*of flmm batch"):
        list(BatchResults(file))
    with pytest.raises(InputError, match="has no results of flmm batch"):
        list(BatchResults(tmp_path))
    with pytest.raises(InputError, match="cannot be read"):
        list(BatchResults(tmp_path / "missing.jsonl"))


@pytest.mark.parametrize(
    ("content", "message"),
    [("- a", "is no mapping"), ("a: 1", "give texts"), ("yes: no", "give texts"), ("a: [", "read")],
)
def test_bad_label_maps_are_refused(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "labels.yaml"
    file.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_label_map(file)
    assert "\n" not in str(caught.value)


def test_label_map_is_read(tmp_path: Path) -> None:
    file = tmp_path / "labels.yaml"
    file.write_text(yaml.safe_dump({"the Cat  on the left": "cat", "grass": "stuff"}))
    labels = read_label_map(file)
    assert labels.find("The cat on the LEFT") == "cat"
    assert labels.find("sky") is None
    assert labels.labels == ["stuff", "cat"]
