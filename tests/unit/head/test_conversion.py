"""Conversion of the authors' checkpoints; its numbers are tested in parity/."""

import pickle
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from official_checkpoint import official_state
from tiny_head import tiny_sam, tiny_segmenter

from flmm.errors import InputError
from flmm.head.conversion import convert_official_checkpoint, read_official_state_dict
from flmm.head.official_weight_names import rename_sam
from flmm.lmm.architecture import LMMArchitecture


def test_checkpoint_without_vision_encoder_takes_the_given_sam() -> None:
    state = official_state()
    head = convert_official_checkpoint(
        state, segmenter=tiny_segmenter(seed=1), base_model_name_or_path="an/lmm"
    )
    config = head.config
    assert (config.layers, config.heads, config.hidden_size) == (2, 3, 10)
    assert (config.base_channels, config.stages) == (4, 2)
    assert config.base_model_name_or_path == "an/lmm"
    weights = head.state_dict()
    assert torch.equal(weights["layer_weights"], state["text_layer_weights"])
    assert torch.equal(weights["text_projection.weight"], state["text_proj.weight"])
    source, other = tiny_sam().state_dict(), tiny_sam(seed=1).state_dict()
    for name, tensor in head.refiner.sam.state_dict().items():
        expected = other if name.startswith("vision_encoder") else source
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize(("heads", "views"), [(3, 1), (1, 3)])
def test_views_that_the_lmm_tells_only_when_loaded_are_inferred(heads: int, views: int) -> None:
    architecture = LMMArchitecture("an_lmm", 2, heads, 10, None)
    head = convert_official_checkpoint(
        official_state(), segmenter=tiny_segmenter(), base_architecture=architecture
    )
    assert head.config.base_architecture == replace(architecture, views=views)


def test_sizes_of_another_lmm_are_refused_with_unknown_views() -> None:
    with pytest.raises(InputError, match="name the LMM that it was"):
        convert_official_checkpoint(
            official_state(),
            segmenter=tiny_segmenter(),
            base_architecture=LMMArchitecture("an_lmm", 2, 4, 10, None),
        )


def test_every_weight_of_sam_is_renamed() -> None:
    state = {
        name.removeprefix("sam.model."): tensor
        for name, tensor in official_state().items()
        if name.startswith("sam.")
    }
    ours = {
        name
        for name in tiny_sam().state_dict()
        if name.startswith(("prompt_encoder", "mask_decoder"))
    }
    assert set(rename_sam(state)) == ours


def test_file_is_read_and_training_state_ignored(tmp_path: Path) -> None:
    state = official_state()
    path = tmp_path / "head.pth"
    torch.save({"state_dict": {**state, "lmm.other": torch.zeros(2)}, "meta": {"epoch": 8}}, path)
    assert convert_official_checkpoint(path, segmenter=tiny_segmenter()).config.heads == 3
    assert torch.equal(read_official_state_dict(path)["text_proj.bias"], state["text_proj.bias"])


def test_code_of_the_trainers_logs_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("mmengine.logging.history_buffer")
    source = (
        "class HistoryBuffer:\n"
        "    def __init__(self, values): self.values = values; self.reader = self.mean\n"
        "    def mean(self): return 0\n"
        "    def __setstate__(self, state): raise SystemExit('executed')\n"
    )
    exec(source, vars(module))
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        monkeypatch.setitem(sys.modules, name, module)
    buffer = module.HistoryBuffer(np.arange(3.0))
    path = tmp_path / "head.pth"
    torch.save({"state_dict": official_state(), "message_hub": {"loss": buffer}}, path)
    monkeypatch.undo()
    assert len(read_official_state_dict(path)) == len(official_state())


class Malicious:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"open({str(self.victim)!r}, 'w').close()",)


@pytest.mark.parametrize("key", ["state_dict", "meta"])
def test_malicious_pickle_is_refused_and_not_executed(tmp_path: Path, key: str) -> None:
    victim, path = tmp_path / "executed", tmp_path / "head.pth"
    content = {"state_dict": official_state(), "meta": {}}
    content[key]["evil"] = Malicious(victim)  # type: ignore[assignment]
    torch.save(content, path)
    with pytest.raises(InputError, match=r"eval.*not a tensor") as caught:
        convert_official_checkpoint(path, segmenter=tiny_segmenter())
    assert "\n" not in str(caught.value)
    assert not victim.exists()


def test_plain_malicious_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    victim, path = tmp_path / "executed", tmp_path / "head.pth"
    path.write_bytes(pickle.dumps(Malicious(victim)))
    with pytest.raises(InputError, match=r"torch\.save"):
        convert_official_checkpoint(path, segmenter=tiny_segmenter())
    assert not victim.exists()


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 3}, {"state_dict": {"a": "text"}}])
def test_file_without_tensors_raises_input_error(tmp_path: Path, content: object) -> None:
    path = tmp_path / "head.pth"
    torch.save(content, path)
    with pytest.raises(InputError, match="state_dict"):
        convert_official_checkpoint(path, segmenter=tiny_segmenter())


def test_missing_file_raises_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pth") as caught:
        convert_official_checkpoint(tmp_path / "none.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text_layer_weights", "text_layer_weights"),
        ("text_proj.weight", "text_proj.weight"),
        ("text_proj.bias", "text_proj lacks 1 weights (bias)"),
        ("mask_head.conv_seg.bias", "mask_head lacks 1 weights (classifier.bias)"),
        ("mask_head.encoder.0.0.convs.0.conv.weight", "encoder.0.0.convs.0.conv.weight"),
        ("sam.model.mask_decoder.iou_token.weight", "mask_decoder lacks 1 weights (iou_token"),
    ],
)
def test_missing_weight_is_named(name: str, message: str) -> None:
    state = official_state()
    del state[name]
    with pytest.raises(InputError) as caught:
        convert_official_checkpoint(state, segmenter=tiny_segmenter())
    assert "\n" not in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["mask_head.conv_seg.bias", "text_layer_weights", "sam.model.mask_decoder.iou_token.weight"],
)
def test_weight_that_is_no_finite_number_is_named(name: str) -> None:
    state = official_state()
    state[name] = torch.full_like(state[name], torch.nan)
    with pytest.raises(InputError, match="no finite numbers") as caught:
        convert_official_checkpoint(state, segmenter=tiny_segmenter())
    assert "\n" not in str(caught.value)


def test_unknown_weight_of_the_mask_head_is_named() -> None:
    state = official_state() | {"mask_head.attention.weight": torch.zeros(1)}
    with pytest.raises(InputError, match=r"mask_head\.attention"):
        convert_official_checkpoint(state, segmenter=tiny_segmenter())


def test_sam_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match="trained with") as caught:
        convert_official_checkpoint(official_state(), segmenter=tiny_segmenter(width=32))
    assert "\n" not in str(caught.value)


def test_maps_must_be_a_multiple_of_layers() -> None:
    state = official_state() | {"text_layer_weights": torch.zeros(4)}
    with pytest.raises(InputError, match=r"6 maps.*4 layers"):
        convert_official_checkpoint(state, segmenter=tiny_segmenter())
