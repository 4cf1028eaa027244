"""``flmm evaluate --beside published``: a run's figures among published ones."""

from pathlib import Path

import pytest
from command import run_in_process
from evaluation_world import EvaluationSetup, command, make_setup

from flmm.data.fixtures import write_refcoco


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSetup:
    return make_setup(tmp_path_factory.mktemp("world"))


def arguments(world: EvaluationSetup, folder: Path, out: Path) -> list[str]:
    data = write_refcoco(folder)
    return [
        "evaluate", "refcoco", "--folder", str(data.folder), "--pictures", str(data.pictures),
        "--part", "testA", "--split-by", "unc", "--model", str(world.head), "--device", "cpu",
        "--out", str(out), "--protocol", "one-by-one", "--beside", "published",
    ]  # fmt: skip


def test_published_figures_in_tables_and_json(
    world: EvaluationSetup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    content = command([*arguments(world, tmp_path / "refcoco", out), "--json"], capsys)
    published = content["published"]
    assert isinstance(published, dict)
    assert published["benchmark"] == "RefCOCO testA"
    lisa = {
        "benchmark": "RefCOCO testA", "part": "", "metric": "cIoU", "system": "LISA-7B",
        "figure": 76.5, "protocol": "one-by-one", "source": "LISA, arXiv 2308.00692, Table 2",
    }  # fmt: skip
    assert lisa in published["figures"]
    again = command(["evaluate", "--table", str(out), "--beside", "published", "--json"], capsys)
    assert again == content
    ended = run_in_process(["evaluate", "--table", str(out), "--beside", "published"], capsys)
    assert ended.code == 0
    assert "RefCOCO testA, beside published figures" in ended.out
    assert "this run" in ended.out
    alone = command(["evaluate", "--table", str(out), "--json"], capsys)
    assert "published" not in alone


def test_data_of_ones_own_has_no_published_figures(
    world: EvaluationSetup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run_in_process(arguments(world, tmp_path / "mine", tmp_path / "out"), capsys)
    assert (ended.code, ended.err) == (0, "")
    assert "Published figures are known of: RefCOCO and RefCOCO+" in " ".join(ended.out.split())
    assert "GLaMM" not in ended.out
