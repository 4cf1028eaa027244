"""Whatever is wrong with a data set's files: one line that says what, and never another error."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from data_formats import (
    COCO,
    CONVERSATIONS,
    FILES,
    FORMATS,
    NARRATIVES,
    PLAIN,
    REASON_SEG,
    REFCOCO,
    Format,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flmm.data.sample_loader import SampleLoader
from flmm.errors import InputError

EACH_FILE = pytest.mark.parametrize(
    ("form", "name"), FILES, ids=lambda one: getattr(one, "kind", one)
)
MANY = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
WRONG: tuple[object, ...] = (
    None, True, -1, 10**30, 1e300, float("nan"), float("inf"), "", "\n", "\x00", "x" * 300,
    "../..", "-1", [], [[]], [1], {}, {"": None},
)  # fmt: skip


def read_or_refuse(form: Format, folder: Path) -> None:
    """Reads the whole data set; every complaint must be one line."""
    told: list[str] = []
    try:
        for _ in SampleLoader(told.append).load(form.read(folder)):
            pass
    except InputError as error:
        told.append(str(error))
    for line in told:
        assert line.strip()
        assert len(line.splitlines()) == 1


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A copy of each format, as it should be."""
    folders = {form.kind: tmp_path_factory.mktemp(form.kind) for form in FORMATS}
    for form in FORMATS:
        form.write(folders[form.kind])
    return folders


def damaged(copies: dict[str, Path], form: Format, name: str, content: bytes, to: Path) -> Path:
    """A copy with other content in one file, in a folder of its own."""
    folder = to / os.urandom(8).hex()
    shutil.copytree(copies[form.kind], folder, copy_function=os.link)
    (folder / name).unlink()
    (folder / name).write_bytes(content)
    return folder


@EACH_FILE
@given(data=st.data())
@MANY
def test_bytes_lost_or_changed(
    form: Format, name: str, data: st.DataObject, copies: dict[str, Path], tmp_path: Path
) -> None:
    content = bytearray((copies[form.kind] / name).read_bytes())
    places = st.integers(0, len(content) - 1)
    if data.draw(st.booleans()):
        content = content[: data.draw(places)]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(places)] = data.draw(st.integers(0, 255))
    read_or_refuse(form, damaged(copies, form, name, bytes(content), tmp_path))


@EACH_FILE
@given(data=st.data())
@MANY
def test_one_wrong_value(
    form: Format, name: str, data: st.DataObject, copies: dict[str, Path], tmp_path: Path
) -> None:
    content = (copies[form.kind] / name).read_bytes()
    wrong = data.draw(st.sampled_from(WRONG))

    def spoil(parsed: object) -> object:
        """Goes down to any place and puts the wrong value there (or takes it away)."""
        if isinstance(parsed, dict) and parsed and data.draw(st.integers(0, 9)):
            key = data.draw(st.sampled_from(sorted(parsed)))
            if not data.draw(st.integers(0, 9)):
                return {other: value for other, value in parsed.items() if other != key}
            return parsed | {key: spoil(parsed[key])}
        if isinstance(parsed, list) and parsed and data.draw(st.integers(0, 9)):
            place = data.draw(st.integers(0, len(parsed) - 1))
            return [*parsed[:place], spoil(parsed[place]), *parsed[place + 1 :]]
        return wrong

    if name.endswith(".p"):
        changed = pickle.dumps(spoil(pickle.loads(content)), protocol=2)
    elif name.endswith(".jsonl"):
        lines = content.decode().splitlines()
        changed = "\n".join([*lines[1:], json.dumps(spoil(json.loads(lines[0])))]).encode()
    else:
        text = content.decode("cp1252" if form is REASON_SEG else "utf-8")
        changed = json.dumps(spoil(json.loads(text))).encode()
    read_or_refuse(form, damaged(copies, form, name, changed, tmp_path))


@given(data=st.data())
@MANY
def test_damaged_panoptic_picture(
    data: st.DataObject, copies: dict[str, Path], tmp_path: Path
) -> None:
    name = "panoptic_val2017/000000000200.png"
    content = bytearray((copies[NARRATIVES.kind] / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    read_or_refuse(NARRATIVES, damaged(copies, NARRATIVES, name, bytes(content), tmp_path))


@EACH_FILE
@pytest.mark.parametrize("damage", ["cut", "missing", "other", "not UTF-8"])
def test_damaged_file_is_named(
    form: Format, name: str, damage: str, copies: dict[str, Path], tmp_path: Path
) -> None:
    content = (copies[form.kind] / name).read_bytes()
    other = {
        "cut": content[: len(content) // 2 + 3],
        "missing": b"",
        "other": pickle.dumps(7) if name.endswith(".p") else b'{"no": 1}',
        # No byte 0x81 in Windows' Western characters either.
        "not UTF-8": b"\x81" + content,
    }
    folder = damaged(copies, form, name, other[damage], tmp_path)
    if damage == "missing":
        (folder / name).unlink()
    if damage == "missing" and form is REASON_SEG:
        assert len(form.read(folder)) == 2, "ReasonSeg is whatever lies in its folder"
        return
    with pytest.raises(InputError) as caught:
        form.read(folder)
    assert Path(name).name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("form", "name", "entries", "key"),
    [
        (COCO, "instances.json", "images", "id"),
        (COCO, "instances.json", "annotations", "id"),
        (COCO, "instances.json", "categories", "id"),
        (REFCOCO, "instances.json", "annotations", "id"),
        (NARRATIVES, "panoptic_val2017.json", "annotations", "image_id"),
        (NARRATIVES, "panoptic_val2017.json", "categories", "id"),
    ],
)
def test_number_of_two_entries(
    form: Format, name: str, entries: str, key: str, tmp_path: Path
) -> None:
    form.write(tmp_path)
    content = json.loads((tmp_path / name).read_text())
    first, second, *_ = content[entries]
    (tmp_path / name).write_text(json.dumps(content | {entries: [*content[entries], first]}))
    form.read(tmp_path)  # the same entry twice does no harm
    second[key] = first[key]
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"two different {entries} have the number {first[key]};"):
        form.read(tmp_path)


def test_pickle_that_wants_to_run_something_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path}/ran",)

    REFCOCO.write(tmp_path)
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([Trap()]))
    with pytest.raises(InputError, match=r"refs\(unc\)\.p' is refused: it names '.*system'"):
        REFCOCO.read(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_pickle_that_asks_for_all_memory_is_refused(tmp_path: Path) -> None:
    REFCOCO.write(tmp_path)
    # Remember the list as number 4,000,000,000, end.
    (tmp_path / "refs(unc).p").write_bytes(b"\x80\x02]r\x00\x28\x6b\xee.")
    with pytest.raises(InputError, match="no part 'train'; choose one of none"):
        REFCOCO.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"phrases": [{"start": 2, "end": 999, "segmentation": []}]}, "line 2.*2..999 is outside"),
        ({"phrases": [{"start": -1, "end": 3, "segmentation": []}]}, "line 2: phrases.0.start"),
        ({"phrases": [{"start": 3, "end": 3, "segmentation": []}]}, "line 2.*3..3 is outside"),
        ({"text": ""}, "line 2: text"),
        ({"image": None}, "line 2: image"),
        ({"qestion": "What is it?"}, "line 2: qestion: Extra"),
    ],
)
def test_wrong_line_is_numbered(change: dict[str, object], told: str, tmp_path: Path) -> None:
    PLAIN.write(tmp_path)
    lines = (tmp_path / PLAIN.file).read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    (tmp_path / PLAIN.file).write_text("\n".join(lines))
    with pytest.raises(InputError, match=told):
        PLAIN.read(tmp_path)


def test_missing_and_damaged_pictures_are_told_and_counted(tmp_path: Path) -> None:
    PLAIN.write(tmp_path)
    (tmp_path / "0.jpg").unlink()
    (tmp_path / "2.jpg").write_bytes((tmp_path / "2.jpg").read_bytes()[:600])
    told: list[str] = []
    reading = SampleLoader(told.append)
    found = list(reading.load(PLAIN.read(tmp_path)))
    assert [one.sample.picture.name for one in found] == ["1.jpg"]
    assert (reading.pictures, reading.skipped_pictures, reading.skipped_texts) == (1, 2, 0)
    assert len(told) == 2
    assert "0.jpg" in told[0]
    assert reading.summary == "1 pictures read; skipped 2 pictures and 0 texts of others"


def test_texts_whose_regions_do_not_fit_are_told_and_counted(tmp_path: Path) -> None:
    REFCOCO.write(tmp_path)
    content = json.loads((tmp_path / "instances.json").read_text())
    first, *others = [one for one in content["annotations"] if one["image_id"] == 100]
    assert others, "the picture would have no other text"
    spoilt = [first, *(one for one in content["annotations"] if one["image_id"] == 102)]
    for annotation in spoilt:
        annotation["segmentation"]["counts"].append(5)
    (tmp_path / "instances.json").write_text(json.dumps(content))
    told: list[str] = []
    reading = SampleLoader(told.append)
    samples = REFCOCO.read(tmp_path)
    (read,) = reading.load(samples)
    assert len(samples) == 2
    lost = len(samples[0].texts) - len(read.texts)
    assert lost > 0
    assert (reading.pictures, reading.skipped_pictures, reading.skipped_texts) == (1, 1, lost)
    assert len(told) == lost + len(samples[1].texts)


def test_segment_that_its_picture_lacks_is_told(tmp_path: Path) -> None:
    NARRATIVES.write(tmp_path)
    narratives = json.loads((tmp_path / NARRATIVES.file).read_text())
    noun = next(one for one in narratives[1]["segments"] if one["noun"])
    noun["segment_ids"] = ["123456"]
    (tmp_path / NARRATIVES.file).write_text(json.dumps(narratives))
    told: list[str] = []
    reading = SampleLoader(told.append)
    list(reading.load(NARRATIVES.read(tmp_path)))
    assert (reading.pictures, reading.skipped_pictures) == (2, 1)
    assert "has no segment 123456" in told[0]


def test_narrative_that_its_utterances_do_not_make_up_is_told_and_skipped(tmp_path: Path) -> None:
    NARRATIVES.write(tmp_path)
    narratives = json.loads((tmp_path / NARRATIVES.file).read_text())
    narratives[0]["segments"][1]["utterance"] = "a\nunicorn"
    (tmp_path / NARRATIVES.file).write_text(json.dumps(narratives))
    told: list[str] = []
    reading = SampleLoader(told.append)
    list(reading.load(NARRATIVES.read(tmp_path)))
    assert (reading.pictures, reading.skipped_pictures, reading.skipped_texts) == (3, 0, 1)
    (line,) = told
    assert "skipped text 200-0" in line
    assert r"does not say 'a\nunicorn' after character" in line


def test_caption_with_a_phrase_outside_it_is_told_and_skipped(tmp_path: Path) -> None:
    CONVERSATIONS.write(tmp_path)
    conversations = json.loads((tmp_path / CONVERSATIONS.file).read_text())
    next(iter(conversations[1]["groundings"].values()))["token_positives"][1] = 999
    (tmp_path / CONVERSATIONS.file).write_text(json.dumps(conversations))
    told: list[str] = []
    reading = SampleLoader(told.append)
    list(reading.load(CONVERSATIONS.read(tmp_path)))
    assert (reading.pictures, reading.skipped_pictures) == (2, 1)
    assert "999 is outside its" in told[0]
