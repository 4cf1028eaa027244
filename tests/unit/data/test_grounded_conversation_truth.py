"""The ground truth of GCG: captions with labels in one file, masks in another."""

import json
from pathlib import Path

import numpy as np
import pytest
from data_formats import GROUND_TRUTH, read_whole

from flmm.data.exchanges import ReferringProtocol, build_exchanges
from flmm.data.readers.grounded_conversation import read_grounded_conversations
from flmm.data.sample import GroundedText
from flmm.errors import InputError
from flmm.head.prompt_templates import PromptTemplates
from flmm.stickers.draw import mention_mask
from flmm.stickers.language import caption_turn

CAPTIONS, MASKS = "val_gcg_coco_caption_gt.json", "val_gcg_coco_mask_gt.json"
MASK = {"size": [4, 6], "counts": [9, 2, 2, 2, 9]}


def words(text: GroundedText) -> list[str]:
    return [phrase.words(text.text) for phrase in text.phrases]


def test_labels_have_their_masks(tmp_path: Path) -> None:
    fixture = GROUND_TRUTH.write(tmp_path)
    for number, (loaded, drawing) in enumerate(
        zip(read_whole(GROUND_TRUTH.read(tmp_path)), fixture.drawings, strict=True)
    ):
        (text,) = loaded.texts
        mentions = caption_turn(drawing.scene).mentions
        assert text.text.text == caption_turn(drawing.scene).answer
        said = [phrase for phrase in text.text.phrases if phrase.label is None]
        assert [(phrase.start, phrase.end) for phrase in said] == [
            (mention.start, mention.end) for mention in mentions
        ]
        for mask, mention in zip(text.masks, mentions, strict=False):
            assert np.array_equal(mask, mention_mask(drawing, mention))
        assert words(text.text)[len(mentions) :] == (["a unicorn"] if number == 0 else [])


def test_label_that_the_caption_does_not_say_is_not_put_in_the_mouth(tmp_path: Path) -> None:
    GROUND_TRUTH.write(tmp_path)
    (first, *_) = GROUND_TRUTH.read(tmp_path)
    (exchange,) = build_exchanges(first.texts, PromptTemplates(), ReferringProtocol.TOGETHER)
    assert len(exchange.spans) == len(first.texts[0].phrases) - 1


def write(folder: Path, captions: list[dict[str, object]], num_masks: int) -> Path:
    """Write both files; all masks are of picture 7."""
    masks = [{"id": number, "image_id": 7, "segmentation": MASK} for number in range(num_masks)]
    (folder / CAPTIONS).write_text(json.dumps({"annotations": captions}))
    (folder / MASKS).write_text(json.dumps({"annotations": masks}))
    return folder / CAPTIONS


def test_labels_are_found_as_whole_words_in_any_case(tmp_path: Path) -> None:
    caption = "The  Man beside a manhole, and the man in a hat; a man"
    labels = ["the man", "Manhole", "The man", "a man", "a man", "man (left)", "hat"]
    file = write(tmp_path, [{"image_id": 7, "caption": caption, "labels": labels}], len(labels))
    (sample,) = read_grounded_conversations(file, tmp_path)
    (text,) = sample.texts
    assert sample.picture == tmp_path / "7.jpg"
    said = ["The  Man", "manhole", "the man", "hat", "a man"]
    assert words(text) == [*said, "a man", "man (left)"]
    assert [phrase.label for phrase in text.phrases] == [None] * 5 + ["a man", "man (left)"]


@pytest.mark.parametrize(
    ("captions", "num_masks", "message"),
    [
        ([{"image_id": 7, "caption": "A cat.", "labels": ["a cat"]}], 2, "1 labels .* 2 masks"),
        ([{"image_id": 8, "caption": "A cat.", "labels": ["a cat"]}], 2, "1 labels .* 0 masks"),
        ([{"image_id": 7, "caption": "A cat.", "labels": [" "]}], 1, "labels has no words"),
        ([{"image_id": 7, "caption": "", "labels": ["a cat"]}], 1, "caption .* has no words"),
        ([{"image_id": 7, "caption": "A cat.", "labels": ["a cat"]}] * 2, 1, "caption already"),
    ],
)
def test_caption_that_does_not_fit_its_masks_is_skipped(
    captions: list[dict[str, object]], num_masks: int, message: str, tmp_path: Path
) -> None:
    (sample,) = read_grounded_conversations(write(tmp_path, captions, num_masks), tmp_path)
    with pytest.raises(InputError, match=message):
        sample.texts[-1].phrases[0].mask((4, 6))


def test_either_file_may_be_named_but_both_must_be_there(tmp_path: Path) -> None:
    GROUND_TRUTH.write(tmp_path)
    pictures = tmp_path / "val_test"
    expected = read_grounded_conversations(tmp_path / CAPTIONS, pictures)
    assert read_grounded_conversations(tmp_path / MASKS, pictures) == expected
    (tmp_path / MASKS).unlink()
    with pytest.raises(InputError, match=r"val_gcg_coco_mask_gt\.json' cannot be read"):
        read_grounded_conversations(tmp_path / CAPTIONS, pictures)
