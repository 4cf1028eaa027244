import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_head import CONFIG, PADDED, head_inputs, tiny_head, tiny_segmenter

from flmm.errors import InputError
from flmm.head.checkpoint import check_compatible, load_head, save_head
from flmm.lmm.families.llava import LlavaAdapter
from flmm.masks.unet import MaskDecoder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "head"
    save_head(tiny_head(selector=True, segment_prompt="Find it."), folder)
    return folder


def one_line(error: "pytest.ExceptionInfo[InputError]") -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_loaded_head_equals_the_saved_one(tmp_path: Path) -> None:
    head = tiny_head(selector=True)
    save_head(head, tmp_path)
    # Another seed, so that all but the vision encoder, which is not saved, is from the file.
    segmenter = tiny_segmenter(seed=1)
    trained = head.refiner.segmenter
    segmenter.vision_encoder.load_state_dict(trained.vision_encoder.state_dict())
    loaded = load_head(tmp_path, segmenter)
    assert loaded.config == head.config
    assert not loaded.training
    given = head_inputs(head, PADDED)
    before, after = (
        model(given.attention, given.hidden_states, PADDED, given.image_embeddings)
        for model in (head, loaded)
    )
    assert torch.equal(before.mask_logits, after.mask_logits)
    assert torch.equal(before.refined_logits, after.refined_logits)
    assert torch.equal(
        head.keyword_logits(given.hidden_states[1]), loaded.keyword_logits(given.hidden_states[1])
    )


def test_folder_holds_only_what_was_trained(saved: Path) -> None:
    assert sorted(os.listdir(saved)) == ["config.json", "model.safetensors"]
    names = load_file(saved / "model.safetensors").keys()
    assert not any("vision_encoder" in name for name in names)
    parts = ("mask_decoder.", "refiner.sam.mask_decoder.", "refiner.sam.prompt_encoder.")
    for part in (*parts, "text_projection.", "layer_weights", "selector."):
        assert any(name.startswith(part) for name in names), part


def test_refiner_inside_the_heads_folder_is_found(tmp_path: Path) -> None:
    head = tiny_head(refiner_name_or_path="refiner")
    save_head(head, tmp_path)
    head.refiner.sam.save_pretrained(tmp_path / "refiner")
    loaded = load_head(tmp_path)
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_failed_save_does_not_change_the_old_head(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full_disk(_: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device", metadata)

    monkeypatch.setattr("flmm.head.checkpoint.save_file", full_disk)
    with pytest.raises(InputError, match="No space left") as caught:
        save_head(tiny_head(seed=1), saved)
    one_line(caught)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot read"),
        ("{", "not JSON"),
        ("[1]", "list"),
        ('{"layers": 2}', "format_version"),
        (
            '{"model_type": "llava"}',
            "model of type 'llava', not a grounding head; name it as the LMM",
        ),
        ('{"format_version": 1, "layers": 2}', "lacks.*heads"),
        ('{"format_version": 1, "layers": 2, "heads": 3, "hidden_size": 10, "x": 0}', "unknown.*x"),
        ('{"format_version": 1, "layers": 2, "heads": "3", "hidden_size": 10}', "heads = '3'"),
        ('{"format_version": 1, "layers": 0, "heads": 3, "hidden_size": 10}', "layers is 0"),
        (
            '{"format_version": 1, "layers": 2, "heads": 3, "hidden_size": 10, "use_box": 1}',
            "use_box = 1",
        ),
    ],
)
def test_damaged_config_raises_input_error(saved: Path, content: str | None, reason: str) -> None:
    path = saved / "config.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=reason) as caught:
        load_head(saved, tiny_segmenter())
    one_line(caught)


@pytest.mark.parametrize("damage", ["missing", "garbage", "truncated"])
def test_damaged_weights_raise_input_error(saved: Path, damage: str) -> None:
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(b"\x00garbage" * 9 if damage == "garbage" else whole[:-100])
    with pytest.raises(InputError, match="cannot read") as caught:
        load_head(saved, tiny_segmenter())
    one_line(caught)


def test_weights_of_another_head_are_refused(saved: Path) -> None:
    path = saved / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, "stranger": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="stranger") as caught:
        load_head(saved, tiny_segmenter())
    one_line(caught)
    weights.pop("layer_weights")
    save_file(weights, path)
    with pytest.raises(InputError, match=r"lacks 1 weights \(layer_weights\)"):
        load_head(saved, tiny_segmenter())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_finite_numbers_are_refused(saved: Path, value: float) -> None:
    path = saved / "model.safetensors"
    weights = load_file(path)
    weights["text_projection.weight"][3, 2] = value
    save_file(weights, path)
    with pytest.raises(InputError, match=r"text_projection\.weight that are no finite") as caught:
        load_head(saved, tiny_segmenter())
    one_line(caught)


def test_config_that_does_not_fit_the_weights_is_refused(saved: Path) -> None:
    path = saved / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_size": 11}))
    with pytest.raises(InputError, match=r"text_projection\.weight as") as caught:
        load_head(saved, tiny_segmenter())
    assert "10" in one_line(caught)


def test_wrong_refiner_is_refused(saved: Path) -> None:
    with pytest.raises(InputError, match=r"with a SAM of type 'sam' .* this one is") as caught:
        load_head(saved, tiny_segmenter(width=32))
    one_line(caught)


def test_head_of_before_refiners_were_named_is_checked_by_its_weights(saved: Path) -> None:
    path = saved / "config.json"
    config = json.loads(path.read_text())
    path.write_text(
        json.dumps(
            {
                name: value
                for name, value in config.items()
                if name not in ("refiner_model_type", "refiner_encoder_num_parameters")
            }
        )
    )
    assert load_head(saved, tiny_segmenter()).config.refiner_model_type == "sam"
    with pytest.raises(InputError, match="refiner that it was saved with") as caught:
        load_head(saved, tiny_segmenter(width=32))
    one_line(caught)


@pytest.mark.parametrize("name", ["./none", "/none/at/all", "someone/head", "not a repo name!"])
def test_missing_head_raises_input_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=name.replace(".", r"\.")) as caught:
        load_head(name)
    one_line(caught)


def test_unwritable_folder_raises_input_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match="taken") as caught:
        save_head(tiny_head(), tmp_path / "taken")
    one_line(caught)


def test_head_of_another_lmm_is_refused() -> None:
    adapter = LlavaAdapter.build_tiny()
    fitting = replace(CONFIG, layers=3, heads=4, hidden_size=32)
    check_compatible(fitting, adapter)
    check_compatible(replace(fitting, base_model_type="llava"), adapter)
    for other in (
        replace(fitting, hidden_size=10),
        replace(fitting, layers=2),
        replace(fitting, heads=3),
        replace(fitting, views=2),
        replace(fitting, base_model_type="qwen2_vl"),
    ):
        with pytest.raises(InputError, match="the head is for") as caught:
            check_compatible(other, adapter)
        one_line(caught)


def test_head_of_another_revision_is_refused() -> None:
    config = replace(CONFIG, layers=3, heads=4, hidden_size=32, base_model_revision="v1")
    adapter = LlavaAdapter.build_tiny()
    adapter.revision = "v2"
    # Another name, as that of a folder, says nothing about revisions.
    check_compatible(config, adapter)
    named = replace(config, base_model_name_or_path=adapter.name)
    with pytest.raises(InputError, match=r"is for revision 'v1' .*, not for 'v2'") as caught:
        check_compatible(named, adapter)
    one_line(caught)
    adapter.revision = None
    check_compatible(named, adapter)


def test_folder_without_config_is_refused(tmp_path: Path) -> None:
    save_file(MaskDecoder(6, 4, 3).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"config\.json"):
        load_head(tmp_path)
