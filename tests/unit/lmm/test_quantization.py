"""Loading of an LMM in four bits: what is quantised, and what keeps its weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_grounding import save_lmm
from transformers import BitsAndBytesConfig, EetqConfig
from transformers.models.llava.configuration_llava import LlavaConfig
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

from flmm.attention.tracing import trace_generation
from flmm.errors import InputError
from flmm.lmm.auto import load_lmm
from flmm.lmm.placement import Placement

PICTURE = Image.linear_gradient("L").resize((50, 40)).convert("RGB")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with widths of 64, the block size of 4-bit weights, which some CPUs need whole."""
    folder = save_lmm(tmp_path_factory.mktemp("lmm"))
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for part in ("vision_config", "text_config"):
        config[part] |= {"hidden_size": 64, "intermediate_size": 128}
    config["text_config"]["head_dim"] = 64 // config["text_config"]["num_attention_heads"]
    file.write_text(json.dumps(config))
    torch.manual_seed(0)
    LlavaForConditionalGeneration(LlavaConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def test_weights_of_four_bits(folder: Path) -> None:
    config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32
    )
    for placement in (Placement("cpu", None, None, config), Placement(quantization_config=config)):
        quantized = load_lmm(str(folder), placement)
        kinds = {type(module).__name__ for module in quantized.decoder_layers.modules()}
        assert "Linear4bit" in kinds
        assert "Linear" not in kinds
        trace, text = trace_generation(quantized, quantized.build_prompt(PICTURE, "what is it?"), 4)
        assert text == quantized.generate(quantized.build_prompt(PICTURE, "what is it?"), 4).text
        assert trace.attention.shape == (3, 4, 4, 8, 8)


def quantised_parts(folder: Path, *skipped: str) -> set[str]:
    """Load the model in 4 bits; return the parts that have such weights."""
    config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, llm_int8_skip_modules=list(skipped)
    )
    model = load_lmm(str(folder), Placement("cpu", quantization_config=config)).model
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    return {
        part
        for part in ("vision_tower", "language_model", "lm_head")
        if any(part in name and kind == "Linear4bit" for name, kind in kinds.items())
    }


def test_modules_to_skip_are_named_from_the_start(folder: Path) -> None:
    assert quantised_parts(folder, "model.vision_tower", "lm_head") == {"language_model"}
    assert quantised_parts(folder, "model.vision_tower") == {"language_model", "lm_head"}
    for name in ("q_proj", r".*\.q_proj", "model.language_model.layers.0"):
        assert quantised_parts(folder, name, "lm_head") == {"vision_tower", "language_model"}


def test_modules_to_skip_that_transformers_finds_nowhere(folder: Path) -> None:
    """It would quantise the tower without a word."""
    for name, advice in (
        ("vision_tower", "give such as 'model.vision_tower', and 'lm_head'"),
        ("visual", "give such as 'model.vision_tower', 'model.multi_modal_projector', 'model.lang"),
    ):
        with pytest.raises(InputError, match=f"skips '{name}', .*{advice}"):
            quantised_parts(folder, name, "lm_head")


def test_a_quantised_checkpoint_has_its_own_list(folder: Path, tmp_path: Path) -> None:
    config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, llm_int8_skip_modules=["model.vision_tower", "lm_head"]
    )
    saved = tmp_path / "quantised"
    shutil.copytree(folder, saved)
    adapter = load_lmm(str(folder), Placement("cpu", quantization_config=config))
    adapter.model.save_pretrained(saved)
    assert quantised_parts(saved, "vision_tower") == {"language_model"}


def test_modules_to_skip_that_are_no_regular_expression(folder: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be loaded: nothing to repeat") as caught:
        quantised_parts(folder, "*.vision_tower")
    assert "\n" not in str(caught.value)


def test_missing_package(folder: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be loaded: .*EETQ") as caught:
        load_lmm(str(folder), Placement(quantization_config=EetqConfig()))
    assert "\n" not in str(caught.value)
