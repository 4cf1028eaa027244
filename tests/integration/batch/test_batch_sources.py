"""Where the pictures of ``flmm batch`` come from: files here and elsewhere, Parquet, WebDataset."""

import io
import json
import tarfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import run_in_process
from PIL import Image
from tiny_grounding import save_lmm, save_tiny_head

from flmm.batch.sources.items import Item
from flmm.batch.sources.open import open_source
from flmm.errors import InputError
from flmm.pictures.reading import read_picture

# Of a server on this machine; make test-cluster has what it needs.
S3 = pytest.param(
    "s3://pictures/",
    marks=pytest.mark.skipif(
        any(find_spec(package) is None for package in ("moto", "s3fs")), reason="no S3 server"
    ),
)
PLACES = ("", "memory://pictures/", S3)


def png(seed: int) -> bytes:
    """A picture of ``seed`` + 10 columns."""
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 10 + seed, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(params=PLACES, ids=("local", "memory", "s3"))
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """What the names of written files begin with."""
    monkeypatch.chdir(tmp_path)
    prefix: str = request.param
    if prefix.startswith("s3:"):
        request.getfixturevalue("s3_server")
        fsspec.filesystem("s3").mkdir("pictures")
    yield prefix
    if prefix:
        file_system, folder = fsspec.core.url_to_fs(prefix)
        file_system.rm(folder.rstrip("/"), recursive=True)


@pytest.fixture
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty S3 server, where s3fs finds it."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3").clear_instance_cache()
    yield
    server.stop()


def write(name: str, content: bytes) -> None:
    with fsspec.open(name, "wb", auto_mkdir=True) as opened:
        opened.write(content)


def read(name: str, question: str | None = "Q", digests: bool = False) -> dict[str, Item]:
    items = {item.id: item for item in open_source(name, question, digests)}
    assert items
    return items


def width(item: Item) -> int:
    return read_picture(item.picture.load()).width


def write_tar(name: str, members: dict[str, bytes]) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for path, part in members.items():
            information = tarfile.TarInfo(path)
            information.size = len(part)
            tar.addfile(information, io.BytesIO(part))
    write(name, content.getvalue())


def write_parquet(name: str, columns: dict[str, list[object]]) -> None:
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content, row_group_size=2)
    write(name, content.getvalue())


def test_a_folder(place: str) -> None:
    for number, name in enumerate(("b.png", "a/c.JPG", ".hidden.png", ".folder/d.png", "e.txt")):
        write(f"{place}folder/{name}", png(number))
    items = read(f"{place}folder")
    assert {name: width(item) for name, item in items.items()} == {"b.png": 10, "a/c.JPG": 11}
    assert open_source(f"{place}folder", "Q").count() == 2
    if not place:
        assert open_source(Path("folder"), "Q").count() == 2
    write(f"{place}folder/b.png", png(5))
    changed = read(f"{place}folder")
    assert changed["b.png"].version != items["b.png"].version
    assert changed["a/c.JPG"].version == items["a/c.JPG"].version


def test_a_list(place: str) -> None:
    write(f"{place}a.png", png(0))
    write("memory://pictures/elsewhere.png", png(1))
    tasks = [
        {"image": "a.png", "question": "Why?"},
        {"image": "memory://pictures/elsewhere.png", "id": "far"},
        {"image": "missing.png"},
    ]
    write(f"{place}list.jsonl", "\n".join(map(json.dumps, tasks)).encode())
    items = read(f"{place}list.jsonl")
    assert {name: item.task.question for name, item in items.items()} == {
        "a.png": "Why?",
        "far": "Q",
        "missing.png": "Q",
    }
    assert [width(items[name]) for name in ("a.png", "far")] == [10, 11]
    with pytest.raises(InputError, match="missing"):
        width(items["missing.png"])


@pytest.mark.parametrize("form", ["path", "content", "datasets"])
def test_parquet_files(place: str, form: str) -> None:
    names = [f"{number}.png" for number in range(5)]
    pictures: list[object] = [png(number) for number in range(5)]
    if form == "path":
        for number, name in enumerate(names):
            write(f"{place}{name}", png(number))
        pictures = [*names]
    elif form == "datasets":
        pictures = [
            {"bytes": content, "path": name} for content, name in zip(pictures, names, strict=True)
        ]
    questions: list[object] = ["A?", None, None, None, None]
    phrases: list[object] = [None, ["cat", "dog"], None, None, None]
    columns = {"image": pictures, "question": questions, "phrases": phrases, "other": [*range(5)]}
    write_parquet(f"{place}a.parquet", columns)
    items = read(f"{place}*.parquet")
    expected = names if form != "content" else [f"a.parquet#{number}" for number in range(1, 6)]
    assert list(items) == expected
    # In any order, as threads ask.
    assert [width(items[name]) for name in reversed(expected)] == [14, 13, 12, 11, 10]
    tasks = [items[name].task for name in expected]
    assert [task.question for task in tasks] == ["A?", None, "Q", "Q", "Q"]
    assert tasks[1].phrases == ("cat", "dog")
    assert open_source(f"{place}a.parquet", "Q").count() == 5
    digests = read(f"{place}a.parquet", digests=True)
    assert len({item.version for item in digests.values()}) == 5


def test_parquet_files_that_hold_each_path_once(place: str) -> None:
    write(f"{place}a.png", png(0))
    paths = pa.array(["a.png", "a.png"]).dictionary_encode()
    content = io.BytesIO()
    pq.write_table(pa.table({"id": ["1", "2"], "image": paths}), content)
    write(f"{place}a.parquet", content.getvalue())
    assert [width(item) for item in read(f"{place}a.parquet").values()] == [10, 10]


@pytest.mark.parametrize("name", ["memory://pictures", "memory://pictures/*.tar"])
def test_a_file_system_that_cannot_be_reached(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no credentials")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.info", fail)
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.isdir", fail)
    with pytest.raises(InputError, match="no credentials"):
        open_source(name, "Q")


def test_parquet_rows_with_a_path_alone(place: str) -> None:
    write(f"{place}1.png", png(1))
    pictures: list[object] = [
        {"bytes": png(0), "path": "0.png"},
        {"bytes": None, "path": "1.png"},
        {"bytes": None, "path": "missing.png"},
        {"bytes": None, "path": None},
    ]
    write_parquet(f"{place}a.parquet", {"image": pictures})
    items = read(f"{place}a.parquet")
    assert [width(items[name]) for name in ("0.png", "1.png")] == [10, 11]
    with pytest.raises(InputError, match=r"missing\.png"):
        width(items["missing.png"])
    with pytest.raises(InputError, match="no picture in this row"):
        width(items["a.parquet#4"])
    write(f"{place}1.png", png(2))
    changed = read(f"{place}a.parquet")
    assert [name for name in items if items[name].version != changed[name].version] == ["1.png"]
    assert len({item.version for item in read(f"{place}a.parquet", digests=True).values()}) == 4


def test_web_datasets(place: str) -> None:
    write_tar(
        f"{place}00000.tar",
        {
            "x/1.png": png(1),
            "x/1.json": b'{"question": "Why?", "url": "https://example.org"}',
            "x/2.png": png(2),
            "x/2.txt": b"A cat.\n",
            "x/3.json": b"{}",
            "x/4.json": b"{",
        },
    )
    write_tar(f"{place}00001.tar", {"4.txt": b"A dog.", "4.jpg": png(4)})
    items = read(f"{place}*.tar", question=None)
    assert {name: width(item) for name, item in items.items()} == {
        "00000.tar/x/1": 11,
        "00000.tar/x/2": 12,
        "00001.tar/4": 14,
    }
    tasks = [item.task for item in items.values()]
    assert [task.question for task in tasks] == ["Why?", None, None]
    assert [task.text for task in tasks] == [None, "A cat.", "A dog."]
    asked = read(f"{place}*.tar", question="Q")
    assert [item.task.question for item in asked.values()] == ["Why?", "Q", "Q"]


def test_a_web_dataset_whose_samples_files_lie_apart(place: str) -> None:
    write_tar(
        f"{place}0.tar",
        {
            "1.png": png(1),
            "2.png": png(2),
            "1.json": b'{"question": "Why?"}',
            "2.json": b'{"phrases": ["a cat"]}',
        },
    )
    items = read(f"{place}0.tar")
    assert [width(items[f"0.tar/{key}"]) for key in (1, 2)] == [11, 12]
    assert items["0.tar/1"].task.question == "Why?"
    assert items["0.tar/2"].task.phrases == ("a cat",)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("nothing.parquet", "there is no file 'nothing.parquet'"),
        ("broken.parquet", "is no Parquet file"),
        ("other.parquet", "has no column 'image'"),
        ("broken.tar", "is no tar file"),
        ("json.tar", r"'json\.tar/a': its JSON cannot be read"),
        ("two.tar", r"'two\.tar/a' has several pictures, 'a\.png' and 'a\.seg\.png'"),
        ("unknown://a/b", "'unknown://a/b' cannot be read"),
        ("memory://nowhere/list.jsonl", "cannot be read"),
    ],
)
def test_bad_sources_are_refused(
    name: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write("broken.parquet", b"PAR1 broken")
    write("broken.tar", b"broken" * 1000)
    write_tar("json.tar", {"a.png": png(0), "a.json": b"{"})
    write_tar("two.tar", {"a.png": png(0), "a.seg.png": png(1)})
    write_parquet("other.parquet", {"picture": [b""]})
    with pytest.raises(InputError, match=part):
        list(open_source(name, "Q"))


@pytest.mark.parametrize(
    ("question", "part"), [("", "is empty; write one"), ("a\udcff", "is not valid Unicode")]
)
@pytest.mark.parametrize("name", ["list.jsonl", "."])
def test_bad_questions_are_refused(
    name: str, question: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write("list.jsonl", b'{"image": "a.png"}')
    with pytest.raises(InputError, match=part):
        list(open_source(name, question))


def test_the_command_takes_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    head = str(save_tiny_head(tmp_path / "head", str(save_lmm(tmp_path / "lmm"))))
    write_tar("memory://command/0.tar", {"a.png": png(9), "b.png": b"broken"})
    command = ["batch", "memory://command/*.tar", "Why?", "--out", "results", "--model", head]
    for new in (2, 1):  # the broken one is tried again
        ended = run_in_process([*command, "--max-new-tokens", "3", "--json"], capsys)
        assert ended.code == 0, ended.err
        summary = json.loads(ended.out)
        assert (summary["pictures"], summary["new"], summary["failed"]) == (2, new, 1)
