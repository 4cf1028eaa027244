"""``flmm evaluate --method``: published methods without training."""

from pathlib import Path

import pytest
from command import run_in_process
from evaluation_world import command

from flmm.cli.evaluate import MethodChoice
from flmm.data.fixtures import write_grounded_conversations, write_plain
from flmm.evaluate.score_tables import build_report
from flmm.segmenters.sam import SamSegmenter
from flmm.training_free.baselines.by_name import BASELINES

LMM = ("--lmm", "embedded:lmm", "--device", "cpu", "--json")


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    SamSegmenter.build_tiny().sam.save_pretrained("sam")
    write_plain(Path("data"), 2)


def evaluate(*options: str) -> list[str]:
    return ["evaluate", "plain", "--file", "data/texts.jsonl", *options]


def test_the_command_offers_every_baseline() -> None:
    assert [choice.value for choice in MethodChoice] == list(BASELINES)


def test_each_method_has_its_own_table_and_folder(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = evaluate(*LMM, "--sam", "sam")
    own = command(arguments, capsys)
    reports = {name: command([*arguments, "--method", name], capsys) for name in BASELINES}
    rows = {}
    for name in BASELINES:
        assert reports[name]["model"] == name
        printed = build_report(Path(str(reports[name]["out"]))).tables
        assert [[row.name for row in table.rows] for table in printed] == [[name]]
        rows[name] = printed[0].rows[0].scores
    assert rows["attend-and-segment"] != rows["localization-heads"]
    folders = {str(report["out"]) for report in (own, *reports.values())}
    assert len(folders) == 1 + len(BASELINES)
    again = command([*arguments, "--method", "decaf"], capsys)
    assert again == reports["decaf"]


def test_a_folder_of_another_method_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = evaluate(*LMM, "--sam", "sam", "--out", "out")
    command([*arguments, "--method", "attend-and-segment"], capsys)
    ended = run_in_process([*arguments, "--method", "token-activation-maps"], capsys)
    assert ended.code == 2
    methods = "its method is 'attend-and-segment', this one's 'token-activation-maps'"
    assert f"'out' holds another run: {methods}; choose another --out" in ended.err


def test_a_baseline_needs_a_sam_and_no_head(capsys: pytest.CaptureFixture[str]) -> None:
    ended = run_in_process(evaluate("--device", "cpu", "--method", "decaf"), capsys)
    assert ended.code == 2
    assert "takes neither a head nor a profile; name the LMM with --lmm" in ended.err
    ended = run_in_process(evaluate(*LMM, "--sam", "none", "--method", "decaf"), capsys)
    assert ended.code == 2
    assert "method 'decaf' prompts a SAM; name one with --sam" in ended.err


def test_a_baseline_is_not_measured_on_generated_texts(capsys: pytest.CaptureFixture[str]) -> None:
    write_grounded_conversations(Path("data"), 2)
    arguments = ["evaluate", "grounded_conversation", "--file", "data/OpenPsgGCG_val.json"]
    arguments += ["--pictures", "data/coco_2017"]
    ended = run_in_process([*arguments, *LMM, "--sam", "sam", "--method", "decaf"], capsys)
    assert ended.code == 2
    assert "measured on texts that are given" in ended.err
