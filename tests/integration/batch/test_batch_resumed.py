"""``flmm batch`` run again: what is there is kept, what is missing or changed is done."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command import CommandResult, run_in_process
from PIL import Image
from tiny_grounding import save_lmm, save_tiny_head

QUESTION = "What is on the grass?"
OUTS = ("results.jsonl", "results")
Run = Callable[..., CommandResult]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models")
    return str(save_tiny_head(folder / "head", str(save_lmm(folder / "lmm"))))


def draw(file: Path, seed: int, side: int = 20) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed, name in enumerate("abcde"):
        draw(folder / f"{name}.png", seed)
    return folder


@pytest.fixture
def run(head: str, capsys: pytest.CaptureFixture[str]) -> Run:
    def run_batch(*arguments: str, out: str, question: str = QUESTION) -> CommandResult:
        models = [] if "--model" in arguments else ["--model", head]
        options = ["--out", out, "--json", "--together", "2", "--max-new-tokens", "3"]
        return run_in_process(
            ["batch", "pictures", question, *options, *models, *arguments], capsys
        )

    return run_batch


def read(out: str) -> dict[str, str]:
    """The results by their ids, each of them once, without what differs from run to run."""
    if out.endswith(".jsonl"):
        lines = Path(out).read_text().splitlines()
    else:
        files = sorted(Path(out).glob("*.parquet"))
        lines = [line for file in files for line in pq.read_table(file)["line"].to_pylist()]
        assert not list(Path(out).glob(".results-*")), "a journal is left"
    results = {}
    for line in map(json.loads, lines):
        assert line["id"] not in results
        line.get("answer", {}).pop("timings", None)
        results[line["id"]] = json.dumps(line)
    return results


def summary(ended: CommandResult) -> dict[str, int]:
    assert ended.code == 0, ended.err
    content: dict[str, int] = json.loads(ended.out)
    return content


@pytest.mark.parametrize("out", OUTS)
def test_only_what_is_missing_or_changed_is_done(run: Run, pictures: Path, out: str) -> None:
    (pictures / "b.png").write_bytes(b"broken")
    assert summary(run(out=out))["new"] == 5
    before = read(out)
    assert summary(run("--keep-failures", out=out))["new"] == 0
    assert read(out) == before
    draw(pictures / "0.png", 10)  # added, before all others
    draw(pictures / "c.png", 11)  # another picture under its name
    draw(pictures / "b.png", 12)  # mended
    (pictures / "d.png").unlink()
    os.utime(pictures / "e.png", (1, 1))
    counts = summary(run(out=out))
    assert (counts["pictures"], counts["new"], counts["failed"]) == (5, 4, 0)
    assert (counts["changed"], counts["gone"]) == (3, 1)
    after = read(out)
    assert set(after) == {"0.png", "a.png", "b.png", "c.png", "d.png", "e.png"}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"b.png", "c.png", "e.png"}  # e's version, with the time of change
    assert "error" not in json.loads(after["b.png"])


@pytest.mark.parametrize("out", OUTS)
def test_results_equal_those_of_an_undisturbed_run(run: Run, out: str) -> None:
    summary(run(out=f"undisturbed-{out}"))
    expected = read(f"undisturbed-{out}")
    file = Path(out)
    summary(run(out=out))
    # As a run leaves it that was killed in the middle of a line.
    if out.endswith(".jsonl"):
        file.write_bytes(file.read_bytes()[:-100])
    else:
        (shard,) = file.glob("*.parquet")
        lines = "\n".join(pq.read_table(shard)["line"].to_pylist())
        shard.unlink()
        (file / ".results-00001-0-of-1.jsonl").write_text(lines[:-100])
    assert summary(run(out=out))["new"] == 1
    assert read(out) == expected


@pytest.mark.parametrize("out", OUTS)
def test_what_a_killed_run_left_twice_is_there_once(run: Run, out: str) -> None:
    summary(run(out=out))
    expected, file = read(out), Path(out)
    # A result done anew, whose old one is still there; or a journal that is a shard, too.
    if out.endswith(".jsonl"):
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join([*lines, lines[0]]))
    else:
        (shard,) = file.glob("*.parquet")
        lines = pq.read_table(shard)["line"].to_pylist()
        (file / ".results-00001-0-of-1.jsonl").write_text("".join(f"{line}\n" for line in lines))
    assert summary(run(out=out))["new"] == 0
    assert read(out) == expected


def test_with_digests_the_time_of_change_does_not_matter(run: Run, pictures: Path) -> None:
    assert summary(run("--digest", out="results"))["new"] == 5
    for file in pictures.iterdir():
        os.utime(file, (1, 1))
    assert summary(run("--digest", out="results"))["new"] == 0
    status = (pictures / "a.png").stat()
    content = bytearray((pictures / "a.png").read_bytes())
    content[-1] ^= 1
    (pictures / "a.png").write_bytes(content)
    os.utime(pictures / "a.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert summary(run("--digest", out="results"))["changed"] == 1


@pytest.mark.parametrize("out", OUTS)
def test_other_settings_are_refused_or_kept_beside(run: Run, head: str, out: str) -> None:
    summary(run(out=out))
    before = read(out)
    for changes, part in [
        (["--no-refine"], "refine was true and is false"),
        (["--max-new-tokens", "4"], "max_new_tokens was 3 and is 4"),
        (["--dtype", "bfloat16"], 'dtype was "float32" and is "bfloat16"'),
        (["--lmm", f"{head}/../lmm"], ""),  # the same under another name
    ]:
        ended = run(*changes, out=out)
        assert ended.code == (2 if part else 0), ended.err
        assert part in ended.err
        assert ended.err.count("\n") == bool(part)
    ended = run(out=out, question="Another?")
    assert ended.code == 2
    assert f'question was "{QUESTION}" and is "Another?"' in ended.err
    beside = str(summary(run("--also", "--no-refine", out=out))["out"])
    assert beside != out
    assert len(read(beside)) == 5
    assert read(out) == before
    assert summary(run("--also", "--no-refine", out=out))["new"] == 0


def test_strict_ends_with_an_error_while_a_failure_remains(run: Run, pictures: Path) -> None:
    (pictures / "b.png").write_bytes(b"broken")
    ended = run("--strict", out="results.jsonl")
    assert ended.code == 2
    assert "1 of 5 pictures have no answer" in ended.err
    assert json.loads(ended.out)["failed"] == 1
    assert run("--strict", "--keep-failures", out="results.jsonl").code == 2
    draw(pictures / "b.png", 1)
    assert summary(run("--strict", out="results.jsonl"))["failed"] == 0


def test_pictures_with_difficult_names(run: Run, pictures: Path) -> None:
    draw(pictures / ".hidden.png", 1)
    (pictures / ".folder").mkdir()
    draw(pictures / ".folder" / "x.png", 1)
    (pictures / "empty.png").touch()
    (pictures / "nowhere.png").symlink_to("missing.png")
    os.mkfifo(pictures / "pipe.png")
    (pictures / "folder.png").mkdir()
    draw(Path(os.fsdecode(os.fsencode(pictures) + b"/caf\xe9.png")), 1)
    Path(os.fsdecode(os.fsencode(pictures) + b"/\xff.jpg")).touch()
    assert summary(run(out="results"))["failed"] == 3
    results = {name: json.loads(line) for name, line in read("results").items()}
    failed = {name: line["error"] for name, line in results.items() if "error" in line}
    assert set(failed) == {"empty.png", "nowhere.png", "\\xff.jpg"}
    assert "there is no picture" in failed["nowhere.png"]
    assert set(results) - set(failed) == {*(f"{name}.png" for name in "abcde"), "caf\\xe9.png"}


@pytest.fixture
def other_writer() -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of ``results`` until it is killed."""
    code = """
import sys
from pathlib import Path
from flmm.batch.storage.lock import lock_for_writing, make_folder
make_folder(Path("results"), Path("results"))
with lock_for_writing(Path("results"), Path("results"), (0, 1)):
    print("locked", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_writer_is_told_who_writes(run: Run, other_writer: subprocess.Popen[str]) -> None:
    for arguments in ([], ["--shard", "0/2"]):
        ended = run(*arguments, out="results")
        assert ended.code == 2
        assert f"is being written by process {other_writer.pid} on " in ended.err
    other_writer.kill()
    other_writer.wait()
    assert summary(run(out="results"))["new"] == 5


def test_parts_of_the_work_share_a_folder(run: Run) -> None:
    counts = [summary(run("--shard", f"{part}/3", out="results"))["items"] for part in range(3)]
    assert sum(counts) == 5
    assert max(counts) < 5
    assert len(read("results")) == 5
    everything = summary(run(out="results"))
    assert (everything["new"], everything["gone"]) == (0, 0)


def test_workers_share_the_work(run: Run, pictures: Path) -> None:
    (pictures / "b.png").write_bytes(b"broken")
    counts = summary(run("--workers", "2", out="results"))
    assert (counts["pictures"], counts["new"], counts["failed"]) == (5, 5, 1)
    expected = read("results")
    assert summary(run(out="alone"))["new"] == 5
    assert read("alone") == expected
    assert run("--workers", "2", out="results.jsonl").code == 2


def test_out_of_memory_costs_only_the_picture_that_has_no_room(
    run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from flmm.grounding.grounder import Grounder

    draw(pictures / "large.png", 7, side=90)
    real, sizes = Grounder.chat_together, []

    def short_of_memory(self: Grounder, questions: list[tuple[Image.Image, str]], **options: int):  # type: ignore[no-untyped-def]
        sizes.append(len(questions))
        if any(picture.width == 90 for picture, _ in questions) or len(questions) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, questions, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Grounder, "chat_together", short_of_memory)
    assert summary(run("--together", "4", out="results"))["failed"] == 1
    failed = {name for name, line in read("results").items() if "error" in line}
    assert failed == {"large.png"}
    assert sizes[0] == 4
    assert sizes.count(4) == 1


def test_a_decoder_that_fails_costs_only_its_picture(
    run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("cannot allocate")

    (pictures / "c.png").unlink()
    draw(pictures / "c.bmp", 1)
    monkeypatch.setattr("PIL.BmpImagePlugin.BmpImageFile.load", fail)
    assert summary(run(out="results"))["failed"] == 1
    assert "MemoryError: cannot allocate" in read("results")["c.bmp"]


def test_a_failure_of_flmm_in_every_picture_ends_the_run(
    head: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flmm.cli.main import run
    from flmm.grounding.grounder import Grounder

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    for number in range(30):
        draw(pictures / f"{number}.png", number)
    monkeypatch.setattr(Grounder, "chat_together", fail)
    with pytest.raises(RuntimeError, match="device-side"):
        run(["batch", "pictures", QUESTION, "--model", head])
