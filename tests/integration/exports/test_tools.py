"""Exports read by the tools themselves, where these are installed (CONTRIBUTING.md says how)."""

import json
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from exported import (
    Mask,
    Masks,
    all_shapes,
    build_phrase,
    export,
    fill_even_odd,
    without_empty,
)
from PIL import Image

from flmm.answers import other_libraries
from flmm.answers.answer import Answer


@pytest.fixture(scope="module")
def masks() -> dict[str, list[tuple[str, Mask]]]:
    """Pictures with at least one thing, which some tools need."""
    return {image: labelled for image, labelled in without_empty(all_shapes()).items() if labelled}


def save_pictures(folder: Path, masks: Masks) -> Path:
    for image, labelled in masks.items():
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        height, width = labelled[0][1].shape
        Image.new("RGB", (width, height)).save(folder / image)
    return folder


def test_label_studio_decodes_and_encodes_the_same(masks: Masks, tmp_path: Path) -> None:
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    folder, _ = export(masks, "label-studio", tmp_path)
    for task in json.loads((folder / "tasks.json").read_text()):
        results = task["predictions"][0]["result"]
        labelled = masks[task["data"]["image"]]
        for result, (label, mask) in zip(results, labelled, strict=True):
            # The SDK's converter hands results with the content of "value" to the decoder.
            layers = brush.decode_from_annotation("tag", [{**result, **result["value"]}])
            assert list(layers) == [f"tag-{label}-0"]
            assert np.array_equal(layers[f"tag-{label}-0"] > 0, mask)
            encoded = brush.mask2rle(mask.astype(np.uint8) * 255)
            # Where the bits fill the last byte, the SDK adds an empty one.
            assert result["value"]["rle"] in (encoded, encoded[:-1])


def test_cvat_decodes_and_encodes_the_same(masks: Masks, tmp_path: Path) -> None:
    cvat = pytest.importorskip("cvat_sdk.masks")
    folder, _ = export(masks, "cvat", tmp_path)
    for image in ElementTree.parse(folder / "annotations.xml").getroot().iter("image"):
        width, height = int(image.get("width", "")), int(image.get("height", ""))
        labelled = masks[image.get("name", "")]
        for entry, (label, mask) in zip(image.iter("mask"), labelled, strict=True):
            left, top = int(entry.get("left", "")), int(entry.get("top", ""))
            right = left + int(entry.get("width", "")) - 1
            bottom = top + int(entry.get("height", "")) - 1
            runs = [int(length) for length in entry.get("rle", "").split(",")]
            points = [*runs, left, top, right, bottom]
            assert entry.get("label") == label
            assert points == cvat.encode_mask(mask)
            decoded = cvat.decode_mask(points, image_width=width, image_height=height)
            assert np.array_equal(decoded, mask)


def test_labelme_reads_the_same(masks: Masks, tmp_path: Path) -> None:
    label_file = pytest.importorskip("labelme._label_file")
    utils = pytest.importorskip("labelme.utils")
    folder, _ = export(masks, "labelme", tmp_path)
    save_pictures(folder, masks)
    for image, labelled in masks.items():
        read = label_file.LabelFile(str((folder / image).with_suffix(".json")))
        for shape, (label, mask) in zip(read.shapes, labelled, strict=True):
            classes, _ = utils.shapes_to_label(mask.shape, [shape], {label: 1})
            assert np.array_equal(classes > 0, mask)


def test_supervision_reads_the_coco_file(masks: Masks, tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    folder, _ = export(masks, "coco", tmp_path)
    pictures = save_pictures(tmp_path / "pictures", masks)
    data = supervision.DetectionDataset.from_coco(
        str(pictures), str(folder / "annotations.json"), force_masks=True
    )
    for path, _, detections in data:
        labelled = masks[str(Path(path).relative_to(pictures))]
        assert [data.classes[number] for number in detections.class_id] == [
            label for label, _ in labelled
        ]
        for read, (_, mask) in zip(detections.mask, labelled, strict=True):
            assert np.array_equal(read, mask)


@pytest.mark.parametrize("max_dense_pixels", [2**27, 0])
def test_supervision_has_the_same_masks(
    masks: Masks, max_dense_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervision = pytest.importorskip("supervision")
    monkeypatch.setattr(other_libraries, "_MAX_DENSE_PIXELS", max_dense_pixels)
    for labelled in [*masks.values(), [("nothing", np.zeros((3, 4), dtype=np.bool_))]]:
        height, width = labelled[0][1].shape
        phrases = tuple(build_phrase(text, mask) for text, mask in labelled)
        answer = Answer("it", "", "", (height, width), phrases, {}, Image.new("RGB", (1, 1)))
        detections = answer.to_supervision()
        assert isinstance(detections.mask, supervision.CompactMask) == (not max_dense_pixels)
        assert list(detections.data["class_name"]) == [text for text, _ in labelled]
        assert detections.area.tolist() == [mask.sum() for _, mask in labelled]
        for read, (_, mask) in zip(detections.mask, labelled, strict=True):
            assert np.array_equal(read, mask)
        scene = np.zeros((height, width, 3), dtype=np.uint8)
        supervision.MaskAnnotator().annotate(scene, detections)


def test_yolo_files_are_read_with_their_classes(masks: Masks, tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    beside = {image: labelled for image, labelled in masks.items() if "/" not in image}
    folder, _ = export(beside, "yolo-seg", tmp_path)
    save_pictures(folder / "images", beside)
    data = supervision.DetectionDataset.from_yolo(
        str(folder / "images"), str(folder / "labels"), str(folder / "data.yaml"), force_masks=True
    )
    for path, _, detections in data:
        ((label, mask),) = beside[Path(path).name]
        assert [data.classes[number] for number in detections.class_id] == [label]
        # OpenCV's fillPoly also paints the pixels right of and below the edge, and lines that join
        # parts and holes, so the tool's mask is larger; the file's polygon is exact.
        assert (detections.mask[0] >= mask).all()


def test_gradio_shows_the_same_masks(masks: Masks) -> None:
    gradio = pytest.importorskip("gradio")
    labelled = masks["folder/all of them.jpg"]
    phrases = tuple(build_phrase(text, mask) for text, mask in labelled)
    answer = Answer("it", "", "", (12, 17), phrases, {}, Image.new("RGB", (17, 12)))
    shown = gradio.AnnotatedImage().postprocess(answer.to_annotated_image())
    for annotation, (label, mask) in zip(shown.annotations, labelled, strict=True):
        assert annotation.label == label
        with Image.open(annotation.image.path) as drawn:
            assert np.array_equal(np.asarray(drawn)[..., 3] > 0, mask)


def test_fiftyone_reads_the_coco_file(masks: Masks, tmp_path: Path) -> None:
    # The reader behind COCODetectionDataset; that itself needs a running MongoDB.
    coco = pytest.importorskip("fiftyone.utils.coco")
    folder, _ = export(masks, "coco", tmp_path)
    _, classes, _, images, things = coco.load_coco_detection_annotations(
        str(folder / "annotations.json")
    )
    for number, image in images.items():
        labelled = masks[image["file_name"]]
        size = (image["width"], image["height"])
        for thing, (label, mask) in zip(things[number], labelled, strict=True):
            read = thing.to_detection(size, classes_map=classes, load_segmentation=True)
            drawn = read.to_segmentation(frame_size=size, target=255).mask
            assert read.label == label
            assert np.array_equal(drawn == 255, mask)


@pytest.mark.parametrize("as_polygons", [False, True])
def test_cvat_annotates_with_phrases(as_polygons: bool) -> None:
    cvat = pytest.importorskip("cvat_sdk.masks")
    pytest.importorskip("torch")
    from tiny_grounding import tiny_head

    from flmm.exports.cvat_function import PhraseFunction
    from flmm.exports.labels import LabelMap
    from flmm.grounding.grounder import Grounder
    from flmm.lmm.families.llava import LlavaAdapter

    grounder = Grounder(LlavaAdapter.build_tiny(), tiny_head())
    function = PhraseFunction(grounder, LabelMap({"the cat": "animal", "grass": "stuff"}))
    assert [(label.name, label.id) for label in function.spec.labels] == [
        ("animal", 0), ("stuff", 1),
    ]  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    context = SimpleNamespace(frame_name="a.png", conf_threshold=0.0, conv_mask_to_poly=as_polygons)
    shapes = function.detect(context, picture)
    answer = grounder.segment(picture, ["the cat", "grass"])
    expected = [phrase.mask for phrase in answer.phrases]
    assert any(mask.any() for mask in expected)
    read = [np.zeros((40, 60), dtype=np.bool_) for _ in expected]
    for shape in shapes:
        if as_polygons:
            rings = [[int(value) for value in shape.points]]
            read[shape.label_id] |= fill_even_odd(np.reshape(rings, (-1, 2)), 40, 60)
        else:
            read[shape.label_id] |= cvat.decode_mask(shape.points, image_width=60, image_height=40)
    for mask, other in zip(expected, read, strict=True):
        assert np.array_equal(mask, other)
    context.conf_threshold = 1.0
    assert function.detect(context, picture) == []
