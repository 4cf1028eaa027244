"""`flmm evaluate`: interrupted, on two processes, with damaged data."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import PartialState
from command import run_in_two_processes
from evaluation_world import PICTURES, EvaluationSetup, command, make_setup, measure, same_results
from torch import nn

from flmm.cli.main import run as run_command
from flmm.data.exchanges import ReferringProtocol
from flmm.data.fixtures import write_refcoco
from flmm.data.readers.refcoco import read_refcoco
from flmm.errors import InputError
from flmm.evaluate.benchmark import Benchmark, head_fingerprint
from flmm.evaluate.results import part_file, read_rows
from flmm.evaluate.rows import PhraseRow, SampleRow
from flmm.evaluate.run import evaluate
from flmm.evaluate.score_tables import build_report
from flmm.grounding.grounder import Grounder
from flmm.head.checkpoint import load_head
from flmm.stickers.dataset import EVALUATION_SEED


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSetup:
    return make_setup(tmp_path_factory.mktemp("world"))


def test_the_command_prints_the_table_and_prints_it_again(
    world: EvaluationSetup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    first = command(world.arguments(out), capsys)
    again = command(["evaluate", "--table", str(out), "--json"], capsys)
    assert first == again
    assert first["tables"] == build_report(world.out).to_dict()["tables"]
    assert same_results(out, world.out)
    with pytest.raises(SystemExit):
        run_command(["evaluate", "--table", str(out)])
    shown = capsys.readouterr()
    assert f"{PICTURES} pictures measured; skipped 0 pictures" in shown.out
    assert "things" in shown.out
    assert (out / "worst.html").is_file()


def test_a_yaml_file_names_the_benchmark(
    world: EvaluationSetup,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    file = world.texts.parent / "bench.yaml"
    file.write_text("kind: plain\nname: my texts\nfile: texts.jsonl\nlimit: 2\n")
    content = command(
        ["evaluate", str(file), "--model", str(world.head), "--device", "cpu", "--json"], capsys
    )
    assert (content["dataset"], content["pictures"]) == ("my texts", 2)
    (out,) = (tmp_path / "flmm-evaluation").iterdir()
    assert content["out"] == f"flmm-evaluation/{out.name}"
    assert out.name.startswith("my-texts-together-")


def test_expressions_with_questions_of_their_own_are_asked_one_by_one(
    world: EvaluationSetup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stickers = [
        "evaluate", "stickers", "--folder", str(tmp_path / "scenes"), "--scenes", "1",
        "--first-scene", str(EVALUATION_SEED), "--model", str(world.head), "--device", "cpu",
        "--json", "--out",
    ]  # fmt: skip
    content = command([*stickers, str(tmp_path / "default")], capsys)
    assert content["protocol"] == "one-by-one"
    titles = [table["title"] for table in content["tables"]]  # type: ignore[attr-defined]
    assert "Referring segmentation: one expression at a time (one-by-one; LISA's)" in titles
    together = [*stickers, str(tmp_path / "together"), "--protocol", "together"]
    assert command(together, capsys)["protocol"] == "together"
    data = write_refcoco(tmp_path / "refcoco")
    samples = read_refcoco(data.folder, data.pictures, "testA", "unc")
    assert Benchmark("texts", {}, samples).default_protocol is ReferringProtocol.TOGETHER


KILLED_AT_THIRD_PART = """
import os, signal, sys
from flmm.cli.main import run
replace, targets = os.replace, []
def replace_or_die(source, target):
    if "parts" in str(target):
        targets.append(target)
        if len(targets) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = replace_or_die
run(sys.argv[1:])
"""


def test_a_killed_run_continues_where_it_stopped(
    world: EvaluationSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    arguments = world.arguments(out)
    done = subprocess.run([sys.executable, "-c", KILLED_AT_THIRD_PART, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    names = {path.name for path in (out / "parts").iterdir()}
    assert {"000000.parquet", "000001.parquet"} < names
    assert any(name.endswith(".partial") for name in names)
    with pytest.raises(InputError, match="to its end first"):
        build_report(out)
    calls: list[int] = []
    build_prompts = type(world.grounder.adapter).build_prompts

    def counted(*arguments: object) -> object:
        calls.append(1)
        return build_prompts(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(type(world.grounder.adapter), "build_prompts", counted)
    source = json.loads((out / "run.json").read_text())["source"]
    benchmark = Benchmark("texts", source, world.samples)
    progress: list[tuple[int, int]] = []
    evaluate(
        world.grounder,
        benchmark,
        ReferringProtocol.TOGETHER,
        out,
        PartialState(cpu=True),
        pytest.fail,
        lambda *numbers: progress.append(numbers),
    )
    assert len(calls) == PICTURES - 8
    # What is on disk in one step: it says nothing about the time left.
    assert progress == [(8, PICTURES), (PICTURES, PICTURES)]
    assert same_results(out, world.out)
    assert len(list((out / "parts").iterdir())) == 3


def test_two_processes_give_the_table_of_one(world: EvaluationSetup, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, second = run_in_two_processes(*world.arguments(out))
    assert (first.code, second.code) == (0, 0)
    assert second.out == ""
    assert json.loads(first.out)["tables"] == build_report(world.out).to_dict()["tables"]
    assert same_results(out, world.out)


SECOND_PROCESS_CANNOT_WRITE = """
import os, resource, signal, sys
if os.environ["RANK"] == "1":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from flmm.cli.main import run
run()
"""


def test_both_processes_report_that_one_cannot_write(
    world: EvaluationSetup, tmp_path: Path
) -> None:
    both = run_in_two_processes(
        *world.arguments(tmp_path / "out"), code=SECOND_PROCESS_CANNOT_WRITE
    )
    for process in both:
        assert (process.code, process.out) == (2, "")
        assert "000001.parquet' (File too large)" in process.err.splitlines()[-1]


def test_unreadable_pictures_are_reported_and_counted(
    world: EvaluationSetup, tmp_path: Path
) -> None:
    samples = world.samples[:9]
    samples[1] = replace(samples[1], picture=tmp_path / "gone.jpg")
    truncated = tmp_path / "short.jpg"
    truncated.write_bytes(samples[2].picture.read_bytes()[:500])
    samples[2] = replace(samples[2], picture=truncated)
    messages: list[str] = []
    report = measure(world.grounder, samples, tmp_path / "out", on_message=messages.append)
    assert len(messages) == 2
    assert "gone.jpg" in messages[0]
    assert "7 pictures measured; skipped 2 pictures" in report.counts.summary
    skipped = [row for row in read_rows(tmp_path / "out", SampleRow) if not row.measured]
    assert [(row.sample, row.told) for row in skipped] == [(1, (messages[0],)), (2, (messages[1],))]
    assert {row.sample for row in read_rows(tmp_path / "out", PhraseRow)} == {0, *range(3, 9)}
    with pytest.raises(InputError, match="nothing was measured"):
        measure(world.grounder, samples[1:3], tmp_path / "nothing", on_message=messages.append)


def test_a_damaged_part_is_measured_again(world: EvaluationSetup, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(world.out, out)
    content = part_file(out, 1).read_bytes()
    part_file(out, 1).write_bytes(content[: len(content) // 2])
    flipped = bytearray(part_file(out, 0).read_bytes())
    flipped[len(flipped) // 4] ^= 255
    part_file(out, 0).write_bytes(flipped)
    messages: list[str] = []
    measure(world.grounder, world.samples, out, on_message=messages.append)
    names_part = [str(part_file(out, part)) in line for part, line in enumerate(messages)]
    assert names_part == [True] * 2
    assert same_results(out, world.out)


def test_another_run_is_refused(world: EvaluationSetup, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(world.out, out)
    message = "holds another run: its {}; choose another --out"
    protocols = "protocol is 'together', this one's 'one-by-one'"
    with pytest.raises(InputError, match=message.format(protocols)):
        measure(world.grounder, world.samples, out, protocol=ReferringProtocol.ONE_BY_ONE)
    with pytest.raises(InputError, match=message.format("data has 11 pictures, this one's 3")):
        measure(world.grounder, world.samples[:3], out)
    with pytest.raises(InputError, match="the pictures or texts of 'texts' have changed since"):
        measure(world.grounder, world.samples[::-1], out)
    with pytest.raises(InputError, match=message.format("data set is 'texts', this one's 'other'")):
        measure(world.grounder, world.samples, out, name="other")
    with pytest.raises(InputError, match="its data has limit None, this one's 11; choose"):
        evaluate(
            world.grounder, Benchmark("texts", {"limit": 11}, world.samples),
            ReferringProtocol.TOGETHER, out, PartialState(cpu=True), pytest.fail,
        )  # fmt: skip
    other = Grounder.from_pretrained(str(world.head), device="cpu")
    assert other.head is not None
    nn.init.normal_(other.head.text_projection.bias)
    with pytest.raises(InputError, match=r"its head .* had other weights or settings"):
        measure(other, world.samples, out)
    assert same_results(out, world.out)


def test_a_moved_head_has_the_same_fingerprint(world: EvaluationSetup, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(world.head, tmp_path / "moved"))
    assert head_fingerprint(load_head(moved)) == head_fingerprint(load_head(world.head))


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "flmm.cli.options.find_spec", lambda name: None if name == "pyarrow" else object()
    )
    with pytest.raises(SystemExit) as ended:
        run_command(["evaluate", "plain", "--file", "x.jsonl"])
    assert ended.value.code == 2
    assert "pyarrow" in (line := capsys.readouterr().err)
    assert "pip install 'flmm[evaluate]'" in line


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "no benchmark is given"),
        (["paintings"], "'refcoco', 'panoptic_narratives'"),
        (["refcoco", "--folder", "x"], "0.refcoco.pictures: Field required"),
        (["reason_seg", "--folder", "nowhere"], "there is no .json in 'nowhere'"),
        (["stickers", "--folder", "x", "--scenes", "0", "--first-scene", "1"], "stickers.scenes"),
        (["none.yaml"], "'none.yaml' cannot be read as YAML"),
        (["none.yaml", "--limit", "3"], "write the other options into it"),
        (["plain", "--table", "x"], "would ignore benchmark; leave out"),
        (
            [
                "--table",
                "x",
                "--lmm",
                "y",
                "--protocol",
                "together",
                "--beside",
                "published",
                "--json",
            ],
            "would ignore --protocol, --lmm; leave out",
        ),
        (["--table", "."], "give the --out of a run"),
        (["plain", "--protocol", "alone"], "'together', 'one-by-one'"),
    ],
)
def test_wrong_arguments_are_reported_in_one_line(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run_command(["evaluate", *arguments])
    shown = capsys.readouterr()
    assert (ended.value.code, shown.out) == (2, "")
    assert shown.err.startswith("flmm: ")
    assert shown.err.count("\n") == 1
    assert part in shown.err
    assert not any(tmp_path.iterdir())
