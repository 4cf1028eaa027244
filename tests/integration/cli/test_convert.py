"""``flmm convert``: a published checkpoint becomes a head in a folder."""

import json
from pathlib import Path

import pytest
import torch
from command import run_in_process
from official_checkpoint import official_state
from tiny_head import tiny_sam
from transformers.models.llava.configuration_llava import LlavaConfig
from transformers.models.llava_next.configuration_llava_next import LlavaNextConfig
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config

from flmm.head.checkpoint import load_head


def save_config(folder: Path, layers: int, tiled: bool = False) -> None:
    """Save the configuration of an LMM that has the checkpoint's heads and width."""
    text = Qwen3Config(num_hidden_layers=layers, num_attention_heads=3, hidden_size=10, head_dim=4)
    (LlavaNextConfig if tiled else LlavaConfig)(text_config=text).save_pretrained(folder)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_sam().save_pretrained(tmp_path / "sam")
    save_config(tmp_path / "lmm", layers=2)
    save_config(tmp_path / "deeper", layers=4)
    save_config(tmp_path / "tiled", layers=2, tiled=True)
    torch.save({"state_dict": official_state(), "meta": {"epoch": 8}}, tmp_path / "published.pth")
    return tmp_path / "published.pth"


def test_head_has_the_published_weights(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", str(published), "--lmm", "lmm", "--sam", "sam", "--out", "head"]
    ended = run_in_process([*arguments, "--json"], capsys)
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out) == {"head": "head", "lmm": "lmm", "layers": 2, "heads": 3}
    head = load_head("head")
    assert head.config.base_model_name_or_path == str(Path("lmm").resolve())
    assert head.config.base_model_type == "llava"
    state = torch.load(published, weights_only=True)["state_dict"]
    assert torch.equal(head.state_dict()["layer_weights"], state["text_layer_weights"])
    repeated = run_in_process(arguments, capsys)
    assert repeated.code == 2
    assert repeated.err == "flmm: --out 'head' is there already; choose a new folder\n"


def test_head_of_a_tiled_lmm_has_two_views(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_config(Path("tiled"), layers=1, tiled=True)
    state = official_state() | {"text_layer_weights": torch.zeros(1)}
    torch.save({"state_dict": state}, published)
    arguments = ["convert", str(published), "--lmm", "tiled", "--sam", "sam", "--out", "head"]
    ended = run_in_process(arguments, capsys)
    assert (ended.code, ended.err) == (0, "")
    config = load_head("head").config
    assert (config.views, config.layers, config.heads) == (2, 1, 3)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--lmm", "tiled"], "has 6 maps, no multiple of 2 views * 2 layers; name the LMM that it"),
        (["--sam", "nowhere"], "nowhere"),
        (["--lmm", "deeper"], "is for an LMM of 2 layers, 3 heads, width 10 and 1 view(s) of a"),
        (["--lmm", "nowhere"], "LMM 'nowhere' is neither a folder here nor a model that the hub"),
    ],
)
def test_what_does_not_fit_is_refused(
    published: Path, options: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", str(published), "--lmm", "lmm", "--sam", "sam", "--out", "head"]
    ended = run_in_process([*arguments, *options], capsys)
    assert ended.code == 2
    assert part in ended.err
    assert ended.err.count("\n") == 1
    assert not Path("head").exists()
