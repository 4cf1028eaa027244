"""``flmm convert``: a published checkpoint becomes a head in a folder."""

import json
from pathlib import Path

import pytest
import torch
from command import run_in_process
from official_checkpoint import official_state
from tiny_head import tiny_sam

from flmm.head.checkpoint import load_head


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_sam().save_pretrained(tmp_path / "sam")
    torch.save({"state_dict": official_state(), "meta": {"epoch": 8}}, tmp_path / "published.pth")
    return tmp_path / "published.pth"


def test_head_has_the_published_weights(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", str(published), "--lmm", "an/lmm", "--sam", "sam", "--out", "head"]
    ended = run_in_process([*arguments, "--json"], capsys)
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out) == {"head": "head", "lmm": "an/lmm", "layers": 2, "heads": 3}
    head = load_head("head")
    assert head.config.base_model_name_or_path == "an/lmm"
    state = torch.load(published, weights_only=True)["state_dict"]
    assert torch.equal(head.state_dict()["layer_weights"], state["text_layer_weights"])
    repeated = run_in_process(arguments, capsys)
    assert repeated.code == 2
    assert repeated.err == "flmm: --out 'head' is there already; choose a new folder\n"


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--views", "2"], "give views=2 for a tiled LMM, else 1"),
        (["--sam", "nowhere"], "nowhere"),
    ],
)
def test_wrong_views_or_sam_is_refused(
    published: Path, options: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", str(published), "--lmm", "an/lmm", "--sam", "sam", "--out", "head"]
    ended = run_in_process([*arguments, *options], capsys)
    assert ended.code == 2
    assert part in ended.err
    assert ended.err.count("\n") == 1
    assert not Path("head").exists()
