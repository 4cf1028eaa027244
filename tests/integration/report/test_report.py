"""``flmm report`` as users run it, on a few scenes."""

import json
from pathlib import Path

import pytest
from command import run_in_process
from PIL import Image

from flmm.data.fixtures import write_plain
from flmm.report.ablations.small_heads import BASELINE, VARIANTS
from flmm.report.saved_results import load_or_measure
from flmm.training_free.baselines.by_name import BASELINES

SMALL_SIZES = ("--scenes", "2", "--calibration", "2", "--training", "2", "--device", "cpu")
TESTED_VARIANTS = ("max", "mask + box", "vision tower's attention")
CLAIMS = (
    "ground", "ablations", "conversation", "segmentation-token", "where", "chain-of-thought",
)  # fmt: skip


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_all_claims(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    variants = [
        variant for variant in VARIANTS if variant == BASELINE or variant.name in TESTED_VARIANTS
    ]
    monkeypatch.setattr("flmm.report.ablations.small_heads.VARIANTS", variants)
    monkeypatch.setattr("flmm.report.ablations.small_heads.EPOCHS", 1)
    monkeypatch.setattr("flmm.report.segmentation_token.measurement.STEPS", 1)
    ended = run_in_process(["report", *SMALL_SIZES], capsys)
    assert ended.code == 0, ended.err
    assert ended.out == "docs/report.md\n"
    page = Path("docs/report.md").read_text()
    folder = Path("docs/report")
    for claim in CLAIMS:
        assert f"](report/{claim}.png)" in page
        with Image.open(folder / f"{claim}.png") as figure:
            assert figure.width > 1000
        assert (folder / f"{claim}.png").stat().st_size < 300_000
    results = {claim: json.loads((folder / f"{claim}.json").read_text())["results"]
               for claim in CLAIMS}  # fmt: skip

    conversation = results["conversation"]
    grounding, eager = conversation["ways"]
    assert conversation["same_weights"]
    assert conversation["phrases"] > 0
    assert grounding["same_answers"] == grounding["same_logits"] == conversation["answers"]
    # The comparison detects the other arithmetic of eager attention.
    assert eager["same_logits"] < conversation["answers"]

    scores = {
        (row["kind"], row["part"], row["method"]): row["score"]["cumulative_iou"]["value"]
        for row in results["ground"]["rows"]
    }
    for part in ("things", "stuff"):
        refined = scores["caption", part, "refined"]
        assert refined > scores["caption", part, "mask decoder"]
        assert refined > scores["caption", part, "best single head"]
        assert refined > scores["caption", part, "whole picture"]

    where = results["where"]
    assert len(where["layer_weights"]) == where["layers"]
    assert sum(where["layer_weights"]) == pytest.approx(1)

    lines = {(line["group"], line["name"], line["how"]) for line in results["ablations"]["lines"]}
    for name in ("LMM attention", "hidden-state similarity", "vision tower's attention"):
        assert ("maps of", name, "no training") in lines
    assert ("merge of tokens", "max", "trained") in lines

    # Existing results are not measured again, and the files stay the same.
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setattr("flmm.report.claim.load_or_measure", _load_or_fail)
    assert run_in_process(["report", "where", "conversation", *SMALL_SIZES], capsys).code == 0
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_ground_without_a_head(capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SMALL_SIZES, "--lmm", "embedded:lmm", "--sam", "embedded:sam"]
    ended = run_in_process(["report", *options], capsys)
    assert ended.code == 0, ended.err
    for claim in CLAIMS[1:]:
        assert f"flmm: {claim}: left out (this claim needs a head" in ended.err
    with Image.open("docs/report/ground.png") as figure:
        assert figure.width > 1000
    results = json.loads(Path("docs/report/ground.json").read_text())["results"]
    methods = dict.fromkeys(row["method"] for row in results["rows"])
    assert list(methods) == [
        "whole picture", "mean map", "best single head", "K-means", *BASELINES, "training-free",
    ]  # fmt: skip
    assert "| training-free |" in Path("docs/report/ground.md").read_text()
    ended = run_in_process(["report", "where", *options], capsys)
    assert ended.code == 2
    assert "flmm: this claim needs a head" in ended.err
    # Another SAM's masks are measured anew.
    ended = run_in_process(["report", "ground", *options[:-1], "none"], capsys)
    assert ended.code == 0
    assert "flmm: left out: attend-and-segment, localization-heads, decaf" in ended.err
    assert json.loads(Path("docs/report/ground.json").read_text())["results"] != results


def _load_or_fail(
    file: Path, results_type: type[object], key: dict[str, str], _measure: object
) -> object:
    fail = lambda: pytest.fail("it is measured again")  # noqa: E731
    return load_or_measure(file, results_type, key, fail)


def test_data_source_of_the_user(capsys: pytest.CaptureFixture[str]) -> None:
    write_plain(Path("plain"), 6)
    Path("mine.yaml").write_text("{kind: plain, name: mine, file: plain/texts.jsonl}\n")
    options = ["--data", "mine.yaml", *SMALL_SIZES, "--out", "mine"]
    ended = run_in_process(["report", "where", "ground", *options], capsys)
    assert ended.code == 0, ended.err
    assert json.loads(Path("mine/where.json").read_text())["made for"]["data"] == "mine"
    assert "Where grounding lives" in Path("mine.md").read_text()


def test_missing_data_file_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    ended = run_in_process(["report", "where", "--data", "missing.yaml"], capsys)
    assert ended.code == 2
    assert "missing.yaml" in ended.err
    assert ended.err.count("\n") == 1
