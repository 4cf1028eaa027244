"""LMMs without a family file: loaded by the generic adapter, or refused with what is missing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from PIL import Image
from tiny_types import tiny_type_adapter
from transformers.image_processing_base import BatchFeature
from transformers.models.clip.modeling_clip import CLIPVisionModel
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.processing_utils import ProcessorMixin

import flmm.lmm.auto
from flmm.errors import InputError
from flmm.lmm.auto import load_lmm
from flmm.lmm.base import LMMAdapter
from flmm.lmm.families.gemma3 import Gemma3Adapter
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.generic.adapter import GenericAdapter
from flmm.lmm.generic.processor import build_processor

PICTURE = Image.linear_gradient("L").resize((50, 40)).convert("RGB")


def save(adapter: LMMAdapter, folder: Path, processor: type[ProcessorMixin] | None) -> str:
    adapter.model.save_pretrained(folder)
    if processor is None:
        adapter.tokenizer.save_pretrained(folder)
        adapter.image_processor.save_pretrained(folder)
    else:
        build = cast(Callable[..., ProcessorMixin], processor)
        saved = build(
            adapter.image_processor,
            adapter.tokenizer,
            patch_size=4,
            vision_feature_select_strategy="default",
            image_token="<image>",
            num_additional_image_tokens=1,
        )
        saved.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def no_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide every family file."""
    monkeypatch.setattr(flmm.lmm.auto, "list_families", lambda: ())


class ProcessorWithPrefix(LlavaProcessor):
    """One that puts the end token before every text."""

    def __call__(self, *, text: list[str], **options: object) -> BatchFeature:
        prefix = self.tokenizer.eos_token
        prefixed = [each if each.startswith(prefix) else prefix + each for each in text]
        return cast(BatchFeature, super().__call__(text=prefixed, **options))


def test_what_a_processor_puts_before_every_text_is_put_there() -> None:
    tiny = GenericAdapter.build_tiny()
    settings = {
        "patch_size": 4,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    processor = build_processor(ProcessorWithPrefix, tiny.image_processor, tiny.tokenizer, settings)
    adapter = GenericAdapter(tiny.model, processor, "tiny-prefix")
    question, answer = "what is it?", "a cat"
    prompt, plain = (each.build_prompt(PICTURE, question, answer) for each in (adapter, tiny))
    added = torch.tensor([[tiny.tokenizer.eos_token_id]])
    assert prompt.inputs["input_ids"].equal(torch.cat([added, plain.inputs["input_ids"]], dim=1))
    assert prompt.question_start == plain.question_start + 1
    assert prompt.answer_start == plain.answer_start + 1
    assert prompt.image_token_positions.equal(plain.image_token_positions + 1)


def test_unknown_family_is_loaded(tmp_path: Path) -> None:
    tiny = GenericAdapter.build_tiny()
    loaded = load_lmm(save(tiny, tmp_path, LlavaProcessor))
    assert isinstance(loaded, GenericAdapter)
    prompt = loaded.build_prompt(PICTURE, "what is it?")
    assert prompt.picture_views[0][0].geometry.grid == (8, 8)
    expected = tiny.generate(tiny.build_prompt(PICTURE, "what is it?"), 6)
    assert loaded.generate(prompt, 6).token_ids.equal(expected.token_ids)


def test_chat_template_of_a_text_only_llm(tmp_path: Path) -> None:
    tiny = GenericAdapter.build_tiny()
    tiny.tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}{% endfor %}"
    )
    loaded = load_lmm(save(tiny, tmp_path, LlavaProcessor))
    prompt = loaded.build_prompt(PICTURE, "what is it?")
    text = loaded.tokenizer.decode(prompt.inputs["input_ids"][0])
    assert isinstance(text, str)
    assert text == "user: " + "<image>" * 64 + "\nwhat is it?"
    assert len(prompt.image_token_positions) == 64


@pytest.mark.parametrize("size", [(80, 64), (768, 256)])
def test_a_picture_of_a_size_that_loading_tried(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, "red")
    (views,) = GenericAdapter.build_tiny().build_prompt(picture, "what is it?").picture_views
    assert [view.geometry.picture for view in views] == [(size[1], size[0])]


@pytest.mark.usefixtures("no_families")
def test_known_family_gets_the_same_prompt_without_its_file(tmp_path: Path) -> None:
    tiny = LlavaAdapter.build_tiny()
    loaded = load_lmm(save(tiny, tmp_path, LlavaProcessor))
    assert isinstance(loaded, GenericAdapter)
    prompt, expected = (
        adapter.build_prompt(PICTURE, "what?", "a cat") for adapter in (loaded, tiny)
    )
    assert prompt.picture_views[0][0].geometry == expected.picture_views[0][0].geometry
    assert prompt.image_token_positions.equal(expected.image_token_positions)
    assert torch.equal(prompt.inputs["input_ids"], expected.inputs["input_ids"])


@pytest.mark.usefixtures("no_families")
@pytest.mark.parametrize(
    ("family", "processor", "reason"),
    [
        (LlavaAdapter, None, "its own processor"),
        (Gemma3Adapter, None, "its own processor"),
    ],
)
def test_error_names_what_is_missing(
    tmp_path: Path,
    family: type[LMMAdapter],
    processor: type[ProcessorMixin] | None,
    reason: str,
) -> None:
    tiny = family.build_tiny()
    kind = tiny.model.config.model_type
    with pytest.raises(
        InputError, match=rf"{reason}.*write src/flmm/lmm/families/{kind}\.py"
    ) as caught:
        load_lmm(save(tiny, tmp_path, processor))
    assert "\n" not in str(caught.value)


def test_image_tokens_of_another_number_are_refused(tmp_path: Path) -> None:
    tiny = GenericAdapter.build_tiny()
    folder = save(tiny, tmp_path, LlavaProcessor)
    config = tmp_path / "processor_config.json"
    config.write_text(config.read_text().replace('"patch_size": 4', '"patch_size": 8'))
    loaded = load_lmm(folder)
    with pytest.raises(InputError, match=r"64 features for 16 image tokens"):
        loaded.build_prompt(PICTURE, "what?")


def test_another_image_token_than_the_processor_writes_is_refused(tmp_path: Path) -> None:
    folder = save(GenericAdapter.build_tiny(), tmp_path, LlavaProcessor)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"image_token_index": 5}))
    with pytest.raises(InputError, match=r"LlavaProcessor never writes .*image_token_id 5"):
        load_lmm(folder)


def test_loading_runs_no_vision_tower(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = save(GenericAdapter.build_tiny(), tmp_path, LlavaProcessor)
    runs: list[object] = []
    run = CLIPVisionModel.forward

    def count_and_run(*inputs: object, **options: object) -> object:
        runs.append(inputs)
        return cast(Callable[..., object], run)(*inputs, **options)

    monkeypatch.setattr(CLIPVisionModel, "forward", count_and_run)
    loaded = load_lmm(folder)
    assert not runs
    loaded.build_prompt(PICTURE, "what?")
    assert runs
    num_runs = len(runs)
    # Of another size, but of a shape of pixel values that is known.
    loaded.build_prompt(PICTURE.resize((49, 41)), "what?")
    assert len(runs) == num_runs


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "mine", "auto_map": {"AutoConfig": "run_me.Config"}}'
    )
    (tmp_path / "run_me.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(InputError, match=r"transformers itself has no model .*mine\.py"):
        load_lmm(str(tmp_path))


@pytest.mark.parametrize("torch_version", ["2.13.0", "2.13.0+cpu"])
def test_image_processors_that_need_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch_version: str
) -> None:
    monkeypatch.setattr("flmm.lmm.image_processing.is_torchvision_available", lambda: False)
    monkeypatch.setattr(torch, "__version__", torch_version)
    (tmp_path / "config.json").write_text('{"model_type": "lfm2_vl"}')
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "Lfm2VlImageProcessorFast"}'
    )
    with pytest.raises(InputError, match="'Lfm2VlImageProcessor' needs torchvision") as caught:
        load_lmm(str(tmp_path))
    assert str(caught.value).endswith('run: pip install "torch==2.13.0" torchvision')
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model_type", ["exaone4_5", "qwen3_vl_moe", "cosmos3_omni"])
def test_types_whose_processor_has_a_part_for_videos(tmp_path: Path, model_type: str) -> None:
    """The classes of the last two are named by a checkpoint's files alone."""
    tiny = tiny_type_adapter(model_type).build_tiny()
    tiny.tokenizer._set_processor_class(type(tiny.processor).__name__)
    loaded = load_lmm(save(tiny, tmp_path, None))
    prompt, expected = (
        adapter.build_prompt(PICTURE, "what?", "a cat") for adapter in (loaded, tiny)
    )
    assert prompt.picture_views[0][0].geometry == expected.picture_views[0][0].geometry
    assert prompt.inputs["input_ids"].equal(expected.inputs["input_ids"])
    assert loaded.generate(prompt, 4).token_ids.equal(tiny.generate(expected, 4).token_ids)


def test_a_processor_that_no_file_names(tmp_path: Path) -> None:
    folder = save(tiny_type_adapter("cosmos3_omni").build_tiny(), tmp_path, None)
    with pytest.raises(InputError, match="names its processor_class"):
        load_lmm(folder)


def test_a_type_whose_processor_asks_for_torchvision(tmp_path: Path) -> None:
    tiny = tiny_type_adapter("mistral3").build_tiny()
    tiny.model.save_pretrained(tmp_path)
    tiny.processor.save_pretrained(tmp_path)
    loaded = load_lmm(str(tmp_path))
    # Of a single image token, which the vision tower cannot take, and of several.
    for picture in (PICTURE, PICTURE.resize((5, 3))):
        prompt = loaded.build_prompt(picture, "what?")
        expected = tiny.build_prompt(picture, "what?")
        assert prompt.inputs["input_ids"].equal(expected.inputs["input_ids"])
        (view,) = prompt.picture_views[0]
        assert view.geometry.picture == (picture.height, picture.width)
        assert view.token_positions.numel() > 1
        assert loaded.generate(prompt, 4).token_ids.equal(tiny.generate(expected, 4).token_ids)
