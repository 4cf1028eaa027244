"""Listing families, loading models from folders, and the errors when that fails."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from flmm import Grounder
from flmm.attention.tracing import trace_generation
from flmm.errors import InputError
from flmm.lmm.auto import list_families, load_adapter_class, load_lmm
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.model_type import read_model_type
from flmm.lmm.placement import Placement

PICTURE = Image.linear_gradient("L").resize((50, 40)).convert("RGB")
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %} answer:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model saved as the embedded one is: half precision, without a processor_config.json."""
    path = tmp_path_factory.mktemp("tiny-llava")
    adapter = LlavaAdapter.build_tiny()
    adapter.model.to(torch.float16)  # type: ignore[arg-type]
    adapter.model.save_pretrained(path)
    adapter.tokenizer.save_pretrained(path)
    adapter.image_processor.save_pretrained(path)
    return path


def test_families_are_listed_without_torch() -> None:
    script = (
        "import sys, flmm.lmm.auto as auto; names = [f.class_name for f in auto.list_families()];"
        "print(*names); sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "LlavaAdapter" in done.stdout.split()


def test_listed_families_equal_their_classes() -> None:
    for family in list_families():
        assert load_adapter_class(family).model_types == family.model_types
        assert load_adapter_class(family).hub_ids == family.hub_ids
        assert all(name.count("/") == 1 for name in family.hub_ids)


def test_saved_model_comes_back(folder: Path) -> None:
    loaded = load_lmm(str(folder))
    assert loaded.dtype == torch.float32
    assert loaded.name == str(folder)
    original = LlavaAdapter.build_tiny()
    original.model.to(torch.float16).to(torch.float32)  # type: ignore[arg-type]
    generation = loaded.generate(loaded.build_prompt(PICTURE, "what is it?"), 6)
    expected = original.generate(original.build_prompt(PICTURE, "what is it?"), 6)
    assert generation.token_ids.equal(expected.token_ids)
    assert generation.text == expected.text
    assert (loaded.layers, loaded.heads, loaded.hidden_size) == (3, 4, 32)


def test_dtype_can_be_chosen(folder: Path) -> None:
    assert load_lmm(str(folder), Placement(dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_legacy_chat_template_is_read(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    adapter = load_lmm(str(tmp_path))
    prompt = adapter.build_prompt(PICTURE, "what?")
    text = adapter.tokenizer.decode(prompt.inputs["input_ids"][0])
    assert isinstance(text, str)
    assert text.endswith("<image>\nwhat? answer:")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            '{"model_type": "bert"}',
            "'bert', which no family .* reads pictures .* write src/flmm/lmm/families/bert",
        ),
        ('{"model_type": "new"}', "'new', which no family .* write src/flmm/lmm/families/new.py"),
        ('{"peft_type": "LORA"}', "has no model_type"),
        ("not json", "is not a model configuration"),
        ("[]", "is not a model configuration"),
        (None, "without config.json"),
    ],
)
def test_unusable_folder(tmp_path: Path, config: str | None, message: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match=message) as caught:
        load_lmm(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["no/such-model", "no such model", "a/b/c"])
def test_unknown_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="check the spelling") as caught:
        read_model_type(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("missing", ["model.safetensors", "preprocessor_config.json"])
def test_missing_file(folder: Path, tmp_path: Path, missing: str) -> None:
    for file in folder.iterdir():
        if file.name != missing:
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        load_lmm(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_missing_tokenizer(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if not file.name.startswith("tokenizer"):
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(
        InputError, match=r"^LMM '[^']+' has no tokenizer\.json.*save its tokenizer there$"
    ):
        load_lmm(str(tmp_path))


def copy_with_settings(folder: Path, target: Path, name: str, **settings: object) -> None:
    """Copy a model's folder, with changed ``settings`` in its JSON file ``name``."""
    for file in folder.iterdir():
        if file.name != name:
            (target / file.name).symlink_to(file)
    values = json.loads((folder / name).read_text())
    (target / name).write_text(json.dumps(values | settings))


def test_image_token_that_the_tokenizer_lacks(folder: Path, tmp_path: Path) -> None:
    copy_with_settings(folder, tmp_path, "config.json", image_token_index=99999)
    with pytest.raises(InputError, match="image token"):
        load_lmm(str(tmp_path))


def test_processor_of_another_size(folder: Path, tmp_path: Path) -> None:
    copy_with_settings(
        folder, tmp_path, "preprocessor_config.json", crop_size={"height": 28, "width": 28}
    )
    adapter = load_lmm(str(tmp_path))
    with pytest.raises(InputError, match="crop_size"):
        adapter.build_prompt(PICTURE, "what?")


def test_padding_processor_is_used_as_such(folder: Path, tmp_path: Path) -> None:
    copy_with_settings(
        folder,
        tmp_path,
        "preprocessor_config.json",
        image_processor_type="LlavaImageProcessor",
        do_pad=True,
    )
    prompt = load_lmm(str(tmp_path)).build_prompt(PICTURE, "what?")
    geometry = prompt.picture_views[0][0].geometry
    assert geometry.resized == (26, 32)
    assert geometry.offset == (3, 0)


def test_squashing_processor_of_another_family(folder: Path, tmp_path: Path) -> None:
    copy_with_settings(
        folder,
        tmp_path,
        "preprocessor_config.json",
        image_processor_type="SiglipImageProcessor",
        size={"height": 32, "width": 32},
        do_center_crop=False,
    )
    prompt = load_lmm(str(tmp_path)).build_prompt(PICTURE, "what?")
    assert prompt.picture_views[0][0].geometry.resized == (32, 32)


def test_layers_on_several_devices(folder: Path) -> None:
    names = [
        "model.multi_modal_projector", "model.language_model.embed_tokens",
        *(f"model.language_model.{part}" for part in ("layers.0", "layers.2", "norm")),
        "model.language_model.rotary_emb", "lm_head",
    ]  # fmt: skip
    offloaded = ["model.vision_tower", "model.language_model.layers.1"]
    device_map = dict.fromkeys(names, "cpu") | dict.fromkeys(offloaded, "disk")
    spread = load_lmm(str(folder), Placement(device_map=device_map, dtype=torch.float32))
    assert next(spread.decoder_layers[1].parameters()).device.type == "meta"
    whole = load_lmm(str(folder))
    for adapter in (spread, whole):
        assert adapter.device.type == "cpu"
    trace, expected = (
        trace_generation(adapter, adapter.build_prompt(PICTURE, "what is it?"), 5)[0]
        for adapter in (spread, whole)
    )
    assert trace.token_ids.equal(expected.token_ids)
    torch.testing.assert_close(trace.attention, expected.attention, rtol=0, atol=2e-5)


def test_device_and_device_map_exclude_each_other() -> None:
    with pytest.raises(InputError, match=r"device 'cpu' and device_map 'auto'.*leave one out"):
        Placement(device="cpu", device_map="auto")


def test_grounder_passes_the_placement() -> None:
    grounder = Grounder.from_pretrained(device_map={"": "cpu"}, dtype="float16")
    assert grounder.adapter.dtype == torch.float16
    with pytest.raises(InputError, match="leave one out"):
        Grounder.from_pretrained(device_map="auto", device="cpu")
