"""Data sources of a config, and sticker scenes as a data set."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from data_formats import COCO, PLAIN, read_whole
from PIL import Image
from pydantic import ValidationError

from flmm.data.readers.plain import read_plain
from flmm.data.sources import StickersSource, check_sources, read_sources
from flmm.errors import InputError
from flmm.stickers.draw import draw, mention_mask
from flmm.stickers.language import (
    SEGMENT_QUESTION,
    band_place_turn,
    caption_turn,
    referring_expressions,
    thing_place_turn,
)
from flmm.stickers.scene import generate_scene

DOCS = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
PLAIN_ENTRY = {"kind": "plain", "name": "mine", "file": "plain/texts.jsonl"}
COCO_ENTRY = {
    "kind": "coco",
    "name": "COCO",
    "file": "coco/instances.json",
    "pictures": "coco/pictures",
    "limit": 2,
}


def test_sources_are_read_under_their_names(tmp_path: Path) -> None:
    PLAIN.write(tmp_path / "plain")
    COCO.write(tmp_path / "coco")
    samples_by_name = read_sources(check_sources([PLAIN_ENTRY, COCO_ENTRY]), tmp_path)
    assert {name: len(samples) for name, samples in samples_by_name.items()} == {
        "mine": 3,
        "COCO": 2,
    }
    assert samples_by_name["COCO"][0].picture == tmp_path / "coco" / "pictures" / "0.jpg"


def test_absolute_paths_do_not_use_the_base_folder(tmp_path: Path) -> None:
    PLAIN.write(tmp_path)
    (source,) = check_sources([PLAIN_ENTRY | {"file": str(tmp_path / "texts.jsonl")}])
    assert len(source.read(Path("nowhere"))) == 3


def test_source_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data 'mine': '.*texts\.jsonl' cannot be read"):
        read_sources(check_sources([PLAIN_ENTRY]), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "valid list"),
        ([], "at least 1 item"),
        ([{"name": "mine"}], "0: Unable to extract tag using discriminator 'kind'"),
        ([PLAIN_ENTRY | {"kind": "plian"}], "'plian' .* does not match any .*'plain'"),
        ([PLAIN_ENTRY | {"file": 3}], "0.plain.file: .* not a valid path"),
        ([PLAIN_ENTRY | {"limit": "3"}], "0.plain.limit: Input should be a valid integer"),
        ([PLAIN_ENTRY | {"limit": 0}], "0.plain.limit: .* greater than or equal to 1"),
        ([PLAIN_ENTRY | {"limti": 3}], "0.plain.limti: Extra inputs"),
        ([PLAIN_ENTRY | {"name": ""}], "0.plain.name: String should have at least 1"),
        ([{"kind": "plain"}], r"Field required \(and 1 more\)"),
        ([PLAIN_ENTRY, PLAIN_ENTRY], "two entries have the name 'mine'"),
    ],
)
def test_error_of_a_wrong_config_is_one_line(content: object, message: str) -> None:
    with pytest.raises(InputError, match=f"^data: .*{message}") as caught:
        check_sources(content)
    assert "\n" not in str(caught.value)


def test_sources_are_frozen() -> None:
    (source,) = check_sources([PLAIN_ENTRY])
    with pytest.raises(ValidationError, match="frozen"):
        source.limit = 3


def stickers(scenes: int, limit: int | None = None) -> StickersSource:
    return StickersSource(
        name="stickers", folder=Path("drawn"), scenes=scenes, first_scene=4, limit=limit
    )


def test_sticker_scenes_are_drawn_with_their_texts(tmp_path: Path) -> None:
    samples = stickers(3).read(tmp_path)
    assert [sample.picture.name for sample in samples] == ["4.png", "5.png", "6.png"]
    plurals = set()
    for loaded, seed in zip(read_whole(samples), (4, 5, 6), strict=True):
        scene = generate_scene(seed)
        drawing = draw(scene)
        assert np.array_equal(np.asarray(loaded.picture), drawing.picture)
        caption = caption_turn(scene)
        first, *others = loaded.texts
        assert (first.text.kind, first.text.question) == ("caption", caption.question)
        assert first.text.text == caption.answer
        for phrase, mask, mention in zip(
            first.text.phrases, first.masks, caption.mentions, strict=True
        ):
            assert (phrase.start, phrase.end) == (mention.start, mention.end)
            assert np.array_equal(mask, mention_mask(drawing, mention))
            assert phrase.is_thing == bool(mention.things)
            assert phrase.plural == (len(mention.things) > 1)
            plurals.add(phrase.plural)
        turns = [
            thing_place_turn(scene, index, expression)
            for index in range(len(scene.things))
            for expression in referring_expressions(scene, index)
        ]
        turns += [band_place_turn(scene, index) for index in range(len(scene.bands))]
        for other, turn in zip(others, turns, strict=True):
            assert other.text.kind == "expression"
            assert turn.answer.startswith(other.text.text)
            expression = other.text.text[0].lower() + other.text.text[1:]
            assert other.text.question == SEGMENT_QUESTION.format(phrase=expression)
            assert np.array_equal(other.masks[0], mention_mask(drawing, turn.mentions[0]))
    assert len(plurals) == 2


def test_sticker_scenes_are_drawn_only_where_files_are_missing(tmp_path: Path) -> None:
    stickers(2).read(tmp_path)
    files = sorted((tmp_path / "drawn").iterdir())
    assert [file.name for file in files] == ["4-regions-2.png", "4.png", "5-regions-2.png", "5.png"]
    before = {file: file.stat().st_mtime_ns for file in files}
    # As after a run that was interrupted before the second scene was complete.
    (tmp_path / "drawn" / "5-regions-2.png").unlink()
    read_whole(stickers(3, limit=2).read(tmp_path))
    after = {file: file.stat().st_mtime_ns for file in sorted((tmp_path / "drawn").iterdir())}
    assert after.keys() == before.keys(), "a third scene is beyond the limit"
    assert [after[file] == before[file] for file in files] == [True, True, False, False]


def test_stickers_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "drawn").write_text("")
    with pytest.raises(InputError, match="cannot make the folder"):
        stickers(1).read(tmp_path)


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL)


def test_entries_in_the_docs_are_valid() -> None:
    entries = [json.loads(block) for block in code_blocks("json")]
    sources = [
        source
        for entry in entries
        for source in check_sources(entry if isinstance(entry, list) else [entry])
    ]
    kinds = {source.kind for source in sources}
    assert kinds == {
        "plain", "coco", "refcoco", "panoptic_narratives", "grounded_conversation",
        "reason_seg", "viscot", "stickers",
    }  # fmt: skip


def test_example_of_the_plain_format_in_the_docs_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (lines,) = code_blocks("jsonl")
    (tmp_path / "my-data" / "dogs").mkdir(parents=True)
    (tmp_path / "my-data" / "texts.jsonl").write_text(lines)
    for name in ("cat.jpg", "dogs/two.png"):
        Image.new("RGB", (120, 100)).save(tmp_path / "my-data" / name)
    monkeypatch.chdir(tmp_path)
    (code,) = code_blocks("python")
    exec(code, {})
    assert capsys.readouterr().out.splitlines() == [
        "A cat on grass. (2, 100, 120)",
        "Two dogs play. (1, 100, 120)",
        "2 pictures read; skipped 0 pictures and 0 texts of others",
    ]
    first = read_plain(Path("my-data/texts.jsonl"))[0].texts[0]
    phrases = [first.text[phrase.start : phrase.end] for phrase in first.phrases]
    assert phrases == ["A cat", "grass"]
