"""Weights that are missing, unknown, of another shape, or cut short: an error that names them."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BitsAndBytesConfig
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

from flmm.errors import InputError
from flmm.lmm.families.llava import LlavaAdapter
from flmm.pretrained_weights import load_pretrained

WEIGHTS = "model.safetensors"
# The names in the file are those of older versions, which the hub has.
HEAD = "language_model.lm_head.weight"
LAYER = "language_model.model.layers.0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    LlavaAdapter.build_tiny().model.save_pretrained(tmp_path)
    return tmp_path


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def load(folder: Path, **kwargs: object) -> LlavaForConditionalGeneration:
    return load_pretrained(LlavaForConditionalGeneration, "LMM", folder, **kwargs)


def refusal(folder: Path) -> str:
    """The one line with which the folder is refused."""
    with pytest.raises(InputError) as caught:
        load(folder)
    message = str(caught.value)
    assert message.startswith(f"LMM {str(folder)!r} cannot be loaded")
    assert "\n" not in message
    return message


def test_all_weights_are_loaded(folder: Path) -> None:
    loaded = load(folder).state_dict()
    for name, weight in LlavaAdapter.build_tiny().model.state_dict().items():
        assert torch.equal(loaded[name], weight), name


def test_missing_weights_are_named(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    edit_weights(folder, lambda weights: weights.pop(HEAD))
    with caplog.at_level(logging.WARNING):
        assert "its files lack 1 weight (lm_head.weight); copy or download" in refusal(folder)
    assert not caplog.records, "transformers' own table would be said as well"

    def drop_norms(weights: dict[str, Tensor]) -> None:
        for name in [name for name in weights if name.endswith("layernorm.weight")]:
            del weights[name]

    edit_weights(folder, drop_norms)
    message = refusal(folder)
    # Three layers with two norms each, the tower's last norm and the head.
    assert "lack 8 weights (lm_head.weight, " in message
    assert " and 5 more)" in message


def test_unknown_weights_are_named(folder: Path) -> None:
    edit_weights(
        folder, lambda weights: weights.update({f"{LAYER}.q_proj.lora_A.weight": torch.ones(2)})
    )
    assert "have 1 weight that it does not know (model.language_model.layers.0.q_proj.lora_A" in (
        refusal(folder)
    )


@pytest.mark.parametrize(
    "name",
    [
        f"{LAYER}.self_attn.rotary_emb.inv_freq",
        "vision_tower.vision_model.embeddings.position_ids",
        "mtp.layers.0.input_layernorm.weight",
    ],
)
def test_known_extras_are_left_aside(folder: Path, name: str) -> None:
    edit_weights(folder, lambda weights: weights.update({name: torch.ones(2)}))
    load(folder)


def test_weights_of_another_shape_are_named(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update({HEAD: weights[HEAD][:-1]}))
    assert (
        "have 1 weight of another shape (lm_head.weight [295, 32] instead of [296, 32])"
        in refusal(folder)
    )


@pytest.mark.parametrize("kept_bytes", [0, 4, 100_000])
def test_cut_file(folder: Path, kept_bytes: int) -> None:
    content = (folder / WEIGHTS).read_bytes()
    assert len(content) > kept_bytes
    (folder / WEIGHTS).write_bytes(content[:kept_bytes])
    assert "is cut short or damaged" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\3\4 cut"])
def test_damaged_pickle(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    refusal(folder)


def test_missing_shard(tmp_path: Path) -> None:
    LlavaAdapter.build_tiny().model.save_pretrained(tmp_path, max_shard_size="40kB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    load(tmp_path)
    shard.unlink()
    assert shard.name in refusal(tmp_path)


def test_wrong_configuration(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_size"] = 31
    (folder / "config.json").write_text(json.dumps(config))
    message = refusal(folder)
    assert "config.json has a wrong value" in message
    assert "hidden size (31)" in message


@pytest.mark.parametrize(
    "setting", [{"hidden_act": "soft"}, {"rope_parameters": {"rope_type": "soft"}}], ids=str
)
def test_unknown_name_in_the_configuration_is_no_damage_of_the_weights(
    folder: Path, setting: dict[str, object]
) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"].update(setting)
    (folder / "config.json").write_text(json.dumps(config))
    message = refusal(folder)
    assert "does not know 'soft' in its config.json" in message
    assert "cut short" not in message


def test_no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    assert "no file named model.safetensors" in refusal(folder)


def test_saved_weights_of_four_bits(folder: Path, tmp_path: Path) -> None:
    config = BitsAndBytesConfig(load_in_4bit=True)  # type: ignore[no-untyped-call]
    quantized = load(folder, quantization_config=config)
    quantized.save_pretrained(tmp_path / "4bit")
    assert any("absmax" in name for name in load_file(tmp_path / "4bit" / WEIGHTS))
    load(tmp_path / "4bit")
