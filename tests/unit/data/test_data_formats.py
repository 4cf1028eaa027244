"""Readers on fixtures: the texts and the masks of their phrases."""

import json
from pathlib import Path

import numpy as np
import pytest
from data_formats import (
    COCO,
    CONVERSATIONS,
    FLICKR_CAPTIONS,
    FORMATS,
    NARRATIVES,
    PLAIN,
    REASON_SEG,
    REFCOCO,
    REFCOCOG_CAPTIONS,
    VISCOT,
    Format,
    read_whole,
)

from flmm.data.fixtures import write_coco, write_panoptic_narratives
from flmm.data.fixtures.common import box_corners
from flmm.data.readers.plain import read_plain
from flmm.data.readers.reason_seg import PaintedRegion, read_reason_seg
from flmm.data.readers.refcoco import read_refcoco
from flmm.data.sample import Mask
from flmm.data.sample_loader import SampleLoader
from flmm.errors import InputError
from flmm.stickers.draw import mention_mask
from flmm.stickers.language import caption_turn, list_turn, referring_expressions

_TWO_OF_A_KIND = 5


def fill_box(mask: Mask) -> Mask:
    """Return the mask of a mask's box, (H, W) bool."""
    (left, top), _, (right, bottom), _ = box_corners(mask)
    box: Mask = np.zeros_like(mask)
    box[top:bottom, left:right] = True
    return box


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_every_picture_and_text_is_read(form: Format, tmp_path: Path) -> None:
    form.write(tmp_path)
    messages: list[str] = []
    loader = SampleLoader(messages.append)
    samples = form.read(tmp_path)
    loaded = list(loader.load(samples))
    assert not messages
    assert loader.pictures == len(samples) == len(loaded) > 1
    assert len({sample.picture for sample in samples}) == len(samples)
    identities = [text.identity for sample in samples for text in sample.texts]
    assert len(set(identities)) == len(identities)
    for sample in loaded:
        for text in sample.texts:
            shape = (sample.picture.height, sample.picture.width)
            assert text.masks.shape == (len(text.text.phrases), *shape)


def test_expressions_have_their_things_masks(tmp_path: Path) -> None:
    drawing = REFCOCO.write(tmp_path).drawings[0]
    first, *_ = read_whole(REFCOCO.read(tmp_path))
    masks = {text.text.text: text.masks[0] for text in first.texts}
    expected = {
        expression: drawing.thing_masks[thing]
        for thing in range(len(drawing.scene.things))
        for expression in referring_expressions(drawing.scene, thing)
    }
    assert masks.keys() == expected.keys()
    for expression, mask in expected.items():
        assert np.array_equal(masks[expression], mask)


@pytest.mark.parametrize(
    "form",
    [NARRATIVES, CONVERSATIONS, REFCOCOG_CAPTIONS, FLICKR_CAPTIONS, PLAIN],
    ids=lambda form: form.name,
)
def test_caption_phrases_have_their_regions_masks(form: Format, tmp_path: Path) -> None:
    fixture = form.write(tmp_path)
    for loaded, drawing in zip(read_whole(form.read(tmp_path)), fixture.drawings, strict=True):
        text = loaded.texts[0]
        caption = caption_turn(drawing.scene)
        assert text.text.text == caption.answer
        spans = [(phrase.start, phrase.end) for phrase in text.text.phrases]
        assert spans == [(mention.start, mention.end) for mention in caption.mentions]
        for mask, mention in zip(text.masks, caption.mentions, strict=True):
            expected = mention_mask(drawing, mention)
            if form is REFCOCOG_CAPTIONS:
                expected = fill_box(expected)
            assert np.array_equal(mask, expected)


def test_narratives_of_one_picture_are_one_sample(tmp_path: Path) -> None:
    drawing = NARRATIVES.write(tmp_path).drawings[0]
    first, *others = NARRATIVES.read(tmp_path)
    answers = [caption_turn(drawing.scene).answer, list_turn(drawing.scene).answer]
    assert [text.text for text in first.texts] == answers
    assert all(len(sample.texts) == 1 for sample in others)


def test_narrative_phrases_are_plural_and_things_as_drawn(tmp_path: Path) -> None:
    fixture = write_panoptic_narratives(tmp_path, first_scene=_TWO_OF_A_KIND)
    mentions = [
        mention for drawing in fixture.drawings for mention in caption_turn(drawing.scene).mentions
    ]
    phrases = [phrase for sample in NARRATIVES.read(tmp_path) for phrase in sample.texts[0].phrases]
    assert [phrase.plural for phrase in phrases] == [
        len(mention.things) > 1 for mention in mentions
    ]
    assert [phrase.is_thing for phrase in phrases] == [bool(mention.things) for mention in mentions]
    assert len({phrase.plural for phrase in phrases}) == 2, "the fixture needs both numbers"


def test_phrase_of_a_thing_and_stuff_is_neither(tmp_path: Path) -> None:
    NARRATIVES.write(tmp_path)
    narratives = json.loads((tmp_path / NARRATIVES.file).read_text())
    nouns = [segment for segment in narratives[0]["segments"] if segment["noun"]]
    nouns[0]["segment_ids"] += nouns[-1]["segment_ids"]
    nouns[1]["segment_ids"] = ["123456"]
    (tmp_path / NARRATIVES.file).write_text(json.dumps(narratives))
    phrases = NARRATIVES.read(tmp_path)[0].texts[0].phrases
    assert [phrase.is_thing for phrase in phrases[:3]] == [None, None, False]


def test_categories_have_the_masks_of_all_their_regions(tmp_path: Path) -> None:
    fixture = write_coco(tmp_path, first_scene=_TWO_OF_A_KIND)
    for loaded, drawing in zip(read_whole(COCO.read(tmp_path)), fixture.drawings, strict=True):
        things = drawing.scene.things
        assert [text.text.text for text in loaded.texts] == list(
            dict.fromkeys(thing.kind.name for thing in things)
        )
        for text in loaded.texts:
            masks = [
                mask
                for thing, mask in zip(things, drawing.thing_masks, strict=True)
                if thing.kind.name == text.text.text
            ]
            assert np.array_equal(text.masks[0], np.any([fill_box(mask) for mask in masks], axis=0))
            assert text.text.phrases[0].plural == (len(masks) > 1)
            is_first = text.text.text == things[0].kind.name
            crowd = drawing.band_masks[-1] & is_first
            assert np.array_equal(text.ignored_masks[0], crowd)


def test_category_with_only_a_crowd_gives_no_text(tmp_path: Path) -> None:
    COCO.write(tmp_path)
    content = json.loads((tmp_path / COCO.file).read_text())
    for annotation in content["annotations"]:
        if annotation["image_id"] == 1:
            annotation["iscrowd"] = 1
    (tmp_path / COCO.file).write_text(json.dumps(content))
    assert [sample.picture.stem for sample in COCO.read(tmp_path)] == ["0", "2"]


def test_questions_have_their_boxes_and_answers(tmp_path: Path) -> None:
    fixture = VISCOT.write(tmp_path)
    for loaded, drawing in zip(read_whole(VISCOT.read(tmp_path)), fixture.drawings, strict=True):
        for text, thing, mask in zip(
            loaded.texts, drawing.scene.things, drawing.thing_masks, strict=True
        ):
            assert text.text.kind == "instruction"
            assert text.text.text == f"What is {thing.place}?"
            assert text.text.answer == thing.kind.name
            assert np.array_equal(text.masks[0], fill_box(mask))


def test_instructions_have_the_masks_of_the_last_painted_polygons(tmp_path: Path) -> None:
    fixture = REASON_SEG.write(tmp_path)
    samples = read_whole(REASON_SEG.read(tmp_path))
    kinds = [loaded.texts[0].text.kind for loaded in samples]
    assert kinds == ["instruction", "expression", "instruction"]
    for loaded, drawing in zip(samples, fixture.drawings, strict=True):
        assert "café" in loaded.texts[0].text.text
        things = drawing.thing_masks
        for text in loaded.texts:
            assert not (text.masks & text.ignored_masks).any()
            assert text.ignored_masks.any() == (len(things) > 1)
            assert text.masks[0][things[0] & ~text.ignored_masks[0]].all()


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


def test_folder_without_instructions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \.json in"):
        read_reason_seg(tmp_path)


def test_missing_part_is_refused(tmp_path: Path) -> None:
    fixture = REFCOCO.write(tmp_path)
    with pytest.raises(InputError, match="no part 'tset'; choose one of 'testA', 'train'"):
        read_refcoco(fixture.folder, fixture.pictures, "tset", "unc")


def test_lines_about_one_picture_are_one_sample(tmp_path: Path) -> None:
    PLAIN.write(tmp_path)
    lines = (tmp_path / PLAIN.file).read_text().splitlines()
    # A byte order mark and CRLF, as on Windows, and a separator that JSON allows inside a text.
    second = json.dumps({"image": "0.jpg", "text": "A\u2028B", "phrases": []}, ensure_ascii=False)
    content = "\r\n".join([*lines, second, ""])
    (tmp_path / PLAIN.file).write_bytes(b"\xef\xbb\xbf" + content.encode())
    first, *others = read_plain(tmp_path / PLAIN.file)
    assert [text.identity for text in first.texts] == ["line 1", "line 4"]
    assert first.texts[1].text == "A\u2028B"
    assert len(others) == 2


def test_panoptic_picture_of_a_narrative_is_read_once(tmp_path: Path) -> None:
    NARRATIVES.write(tmp_path)
    first, second, *_ = NARRATIVES.read(tmp_path)[0].texts[0].phrases
    mask = first.mask((96, 96))
    for file in (tmp_path / "panoptic_val2017").iterdir():
        file.unlink()
    assert not (second.mask((96, 96)) & mask).any()
    assert np.array_equal(first.mask((96, 96)), mask)
