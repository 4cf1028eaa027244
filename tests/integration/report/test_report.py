"""``flmm report`` as users run it, on a few scenes."""

import json
from pathlib import Path

import pytest
from command import in_process
from PIL import Image

from flmm.data.fixtures import write_plain
from flmm.report.ablations.small_heads import BASELINE, VARIANTS

SMALL_SIZES = ("--scenes", "2", "--calibration", "2", "--training", "2", "--device", "cpu")
TESTED_VARIANTS = ("max", "mask + box", "vision tower's attention")
CLAIMS = (
    "ground", "ablations", "conversation", "segmentation-token", "where", "chain-of-thought",
)  # fmt: skip


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_all_claims(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [one for one in VARIANTS if one == BASELINE or one.name in TESTED_VARIANTS]
    monkeypatch.setattr("flmm.report.ablations.small_heads.VARIANTS", chosen)
    monkeypatch.setattr("flmm.report.ablations.small_heads.EPOCHS", 1)
    monkeypatch.setattr("flmm.report.segmentation_token.measurement.STEPS", 1)
    ended = in_process(["report", *SMALL_SIZES], capsys)
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

    talk = results["conversation"]
    grounding, eager = talk["ways"]
    assert talk["same_weights"]
    assert talk["phrases"] > 0
    assert grounding["same_answers"] == grounding["same_logits"] == talk["answers"]
    # Other arithmetic is seen: the comparison can tell.
    assert eager["same_logits"] < talk["answers"]

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

    lines = {(one["group"], one["name"], one["how"]) for one in results["ablations"]["lines"]}
    for name in ("LMM attention", "hidden-state similarity", "vision tower's attention"):
        assert ("maps of", name, "no training") in lines
    assert ("merge of tokens", "max", "trained") in lines

    # What is there is not measured again, nor written otherwise.
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setattr("flmm.report.claim.Claim._load_results", _load_or_fail(folder))
    assert in_process(["report", "where", "conversation", *SMALL_SIZES], capsys).code == 0
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def _load_or_fail(_folder: Path) -> object:
    from flmm.report.claim import Claim

    kept = Claim._load_results

    def checked(claim: object, out: Path, key: dict[str, str]) -> object:
        found = kept(claim, out, key)  # type: ignore[arg-type]
        assert found is not None, "it would be measured again"
        return found

    return checked


def test_any_data_source(capsys: pytest.CaptureFixture[str]) -> None:
    write_plain(Path("plain"), 6)
    Path("mine.yaml").write_text("{kind: plain, name: mine, file: plain/texts.jsonl}\n")
    options = ["--data", "mine.yaml", *SMALL_SIZES, "--out", "mine"]
    ended = in_process(["report", "where", "ground", *options], capsys)
    assert ended.code == 0, ended.err
    assert json.loads(Path("mine/where.json").read_text())["made for"]["data"] == "mine"
    assert "Where grounding lives" in Path("mine.md").read_text()


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    ended = in_process(["report", "where", "--data", "missing.yaml"], capsys)
    assert ended.code == 2
    assert "missing.yaml" in ended.err
    assert ended.err.count("\n") == 1
