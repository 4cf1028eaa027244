"""Damaged data set files: each error is an `InputError` of one line."""

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
    ("form", "name"), FILES, ids=lambda parameter: getattr(parameter, "kind", parameter)
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
    """Read the whole data set; every message must be one line."""
    messages: list[str] = []
    try:
        for _ in SampleLoader(messages.append).load(form.read(folder)):
            pass
    except InputError as error:
        messages.append(str(error))
    for line in messages:
        assert line.strip()
        assert len(line.splitlines()) == 1


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Undamaged fixtures by their format's name."""
    folders = {form.name: tmp_path_factory.mktemp(form.kind) for form in FORMATS}
    for form in FORMATS:
        form.write(folders[form.name])
    return folders


def damaged(copies: dict[str, Path], form: Format, name: str, content: bytes, to: Path) -> Path:
    """Return a new folder with a copy in which one file has other content."""
    folder = to / os.urandom(8).hex()
    shutil.copytree(copies[form.name], folder, copy_function=os.link)
    (folder / name).unlink()
    (folder / name).write_bytes(content)
    return folder


@EACH_FILE
@given(data=st.data())
@MANY
def test_lost_or_changed_bytes_are_refused_or_read(
    form: Format, name: str, data: st.DataObject, copies: dict[str, Path], tmp_path: Path
) -> None:
    content = bytearray((copies[form.name] / name).read_bytes())
    positions = st.integers(0, len(content) - 1)
    if data.draw(st.booleans()):
        content = content[: data.draw(positions)]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(positions)] = data.draw(st.integers(0, 255))
    read_or_refuse(form, damaged(copies, form, name, bytes(content), tmp_path))


@EACH_FILE
@given(data=st.data())
@MANY
def test_one_wrong_value_is_refused_or_read(
    form: Format, name: str, data: st.DataObject, copies: dict[str, Path], tmp_path: Path
) -> None:
    content = (copies[form.name] / name).read_bytes()
    wrong = data.draw(st.sampled_from(WRONG))

    def spoil(parsed: object) -> object:
        """Return a copy with the wrong value at a random place, or with a key removed."""
        if isinstance(parsed, dict) and parsed and data.draw(st.integers(0, 9)):
            key = data.draw(st.sampled_from(sorted(parsed)))
            if not data.draw(st.integers(0, 9)):
                return {other: value for other, value in parsed.items() if other != key}
            return parsed | {key: spoil(parsed[key])}
        if isinstance(parsed, list) and parsed and data.draw(st.integers(0, 9)):
            index = data.draw(st.integers(0, len(parsed) - 1))
            return [*parsed[:index], spoil(parsed[index]), *parsed[index + 1 :]]
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
def test_damaged_panoptic_picture_is_refused_or_read(
    data: st.DataObject, copies: dict[str, Path], tmp_path: Path
) -> None:
    name = "panoptic_val2017/000000000200.png"
    content = bytearray((copies[NARRATIVES.name] / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    read_or_refuse(NARRATIVES, damaged(copies, NARRATIVES, name, bytes(content), tmp_path))


@EACH_FILE
@pytest.mark.parametrize("damage", ["cut", "missing", "other", "not UTF-8"])
def test_damaged_file_is_named(
    form: Format, name: str, damage: str, copies: dict[str, Path], tmp_path: Path
) -> None:
    content = (copies[form.name] / name).read_bytes()
    contents = {
        "cut": content[: len(content) // 2 + 3],
        "missing": b"",
        "other": pickle.dumps(7) if name.endswith(".p") else b'{"no": 1}',
        # cp1252 has no byte 0x81 either.
        "not UTF-8": b"\x81" + content,
    }
    folder = damaged(copies, form, name, contents[damage], tmp_path)
    if damage == "missing":
        (folder / name).unlink()
    if damage == "missing" and form is REASON_SEG:
        assert len(form.read(folder)) == 2, "ReasonSeg reads all files of its folder"
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
def test_two_entries_with_the_same_id_are_refused(
    form: Format, name: str, entries: str, key: str, tmp_path: Path
) -> None:
    form.write(tmp_path)
    content = json.loads((tmp_path / name).read_text())
    first, second, *_ = content[entries]
    (tmp_path / name).write_text(json.dumps(content | {entries: [*content[entries], first]}))
    form.read(tmp_path)  # equal entries are allowed
    second[key] = first[key]
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"two different {entries} have the number {first[key]};"):
        form.read(tmp_path)


def test_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path}/ran",)

    REFCOCO.write(tmp_path)
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([Trap()]))
    with pytest.raises(InputError, match=r"refs\(unc\)\.p' is refused: it names '.*system'"):
        REFCOCO.read(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_pickle_that_allocates_all_memory_is_refused(tmp_path: Path) -> None:
    REFCOCO.write(tmp_path)
    # LONG_BINPUT: memoise the list at index 4,000,000,000; STOP.
    (tmp_path / "refs(unc).p").write_bytes(b"\x80\x02]r\x00\x28\x6b\xee.")
    with pytest.raises(InputError, match="no part 'train'; choose one of none"):
        REFCOCO.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phrases": [{"start": 2, "end": 999, "segmentation": []}]}, "line 2.*2..999 is outside"),
        ({"phrases": [{"start": -1, "end": 3, "segmentation": []}]}, "line 2: phrases.0.start"),
        ({"phrases": [{"start": 3, "end": 3, "segmentation": []}]}, "line 2.*3..3 is outside"),
        ({"text": ""}, "line 2: text"),
        ({"image": None}, "line 2: image"),
        ({"qestion": "What is it?"}, "line 2: qestion: Extra"),
    ],
)
def test_error_names_the_line(change: dict[str, object], message: str, tmp_path: Path) -> None:
    PLAIN.write(tmp_path)
    lines = (tmp_path / PLAIN.file).read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    (tmp_path / PLAIN.file).write_text("\n".join(lines))
    with pytest.raises(InputError, match=message):
        PLAIN.read(tmp_path)


def test_missing_and_damaged_pictures_are_reported_and_counted(tmp_path: Path) -> None:
    PLAIN.write(tmp_path)
    (tmp_path / "0.jpg").unlink()
    (tmp_path / "2.jpg").write_bytes((tmp_path / "2.jpg").read_bytes()[:600])
    messages: list[str] = []
    loader = SampleLoader(messages.append)
    loaded = list(loader.load(PLAIN.read(tmp_path)))
    assert [sample.sample.picture.name for sample in loaded] == ["1.jpg"]
    assert (loader.pictures, loader.skipped_pictures, loader.skipped_texts) == (1, 2, 0)
    assert len(messages) == 2
    assert "0.jpg" in messages[0]
    assert loader.summary == "1 pictures read; skipped 2 pictures and 0 texts of others"


def test_texts_whose_regions_do_not_fit_are_reported_and_counted(tmp_path: Path) -> None:
    REFCOCO.write(tmp_path)
    content = json.loads((tmp_path / "instances.json").read_text())
    first, *others = [item for item in content["annotations"] if item["image_id"] == 100]
    assert others, "the picture needs another text"
    damaged_annotations = [
        first,
        *(item for item in content["annotations"] if item["image_id"] == 102),
    ]
    for annotation in damaged_annotations:
        annotation["segmentation"]["counts"].append(5)
    (tmp_path / "instances.json").write_text(json.dumps(content))
    messages: list[str] = []
    loader = SampleLoader(messages.append)
    samples = REFCOCO.read(tmp_path)
    (loaded,) = loader.load(samples)
    assert len(samples) == 2
    skipped = len(samples[0].texts) - len(loaded.texts)
    assert skipped > 0
    assert (loader.pictures, loader.skipped_pictures, loader.skipped_texts) == (1, 1, skipped)
    assert len(messages) == skipped + len(samples[1].texts)


def test_segment_missing_in_the_panoptic_picture_is_reported(tmp_path: Path) -> None:
    NARRATIVES.write(tmp_path)
    narratives = json.loads((tmp_path / NARRATIVES.file).read_text())
    noun = next(segment for segment in narratives[1]["segments"] if segment["noun"])
    noun["segment_ids"] = ["123456"]
    (tmp_path / NARRATIVES.file).write_text(json.dumps(narratives))
    messages: list[str] = []
    loader = SampleLoader(messages.append)
    list(loader.load(NARRATIVES.read(tmp_path)))
    assert (loader.pictures, loader.skipped_pictures) == (2, 1)
    assert "has no segment 123456" in messages[0]


def test_narrative_without_its_utterance_is_reported_and_skipped(tmp_path: Path) -> None:
    NARRATIVES.write(tmp_path)
    narratives = json.loads((tmp_path / NARRATIVES.file).read_text())
    narratives[0]["segments"][1]["utterance"] = "a\nunicorn"
    (tmp_path / NARRATIVES.file).write_text(json.dumps(narratives))
    messages: list[str] = []
    loader = SampleLoader(messages.append)
    list(loader.load(NARRATIVES.read(tmp_path)))
    assert (loader.pictures, loader.skipped_pictures, loader.skipped_texts) == (3, 0, 1)
    (line,) = messages
    assert "skipped text 200-0" in line
    assert r"does not say 'a\nunicorn' after character" in line


def test_caption_with_a_phrase_outside_it_is_reported_and_skipped(tmp_path: Path) -> None:
    CONVERSATIONS.write(tmp_path)
    conversations = json.loads((tmp_path / CONVERSATIONS.file).read_text())
    next(iter(conversations[1]["groundings"].values()))["token_positives"][1] = 999
    (tmp_path / CONVERSATIONS.file).write_text(json.dumps(conversations))
    messages: list[str] = []
    loader = SampleLoader(messages.append)
    list(loader.load(CONVERSATIONS.read(tmp_path)))
    assert (loader.pictures, loader.skipped_pictures) == (2, 1)
    assert "999 is outside its" in messages[0]
