"""Prompts equal, token by token, those of the model's own processor in transformers."""

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import cast

import pytest
import torch
from contract_helpers import noise_picture
from PIL import Image
from torch import Tensor
from transformers.processing_utils import ProcessorMixin

from flmm.lmm.base import LMMAdapter
from flmm.lmm.generic.adapter import GenericAdapter
from flmm.lmm.message import Message

# As in a real checkpoint's tokenizer_config.json.
TOKENIZER_ATTRIBUTES = {
    "gemma3": {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
    "gemma4": {
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
        "audio_token": "<|audio|>",
    },
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
}
BORROWED_PROCESSORS = {"qwen3_5": "qwen3_vl"}
"""Families that have no processor of their own."""


def official_processor(
    adapter: LMMAdapter, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Tensor]]:
    if isinstance(adapter, GenericAdapter):
        own = cast(Callable[..., dict[str, Tensor]], adapter.processor)
        is_flat = adapter.model.config.model_type == "got_ocr2"
        return functools.partial(_process_flat, own) if is_flat else own
    kind = adapter.model.config.model_type
    kind = BORROWED_PROCESSORS.get(kind, kind)
    module = importlib.import_module(f"transformers.models.{kind}.processing_{kind}")
    (processor_class,) = (
        value
        for name, value in vars(module).items()
        if name.endswith("Processor")
        and inspect.isclass(value)
        and value.__module__ == module.__name__
    )
    # Videos need torchvision and num2words; no picture does.
    monkeypatch.setattr(ProcessorMixin, "check_argument_for_proper_class", lambda *_: None)
    if hasattr(module, "num2words"):
        monkeypatch.setattr(module, "num2words", str)
    tokenizer = adapter.tokenizer
    names = {"image_token": adapter.image_token, **TOKENIZER_ATTRIBUTES.get(kind, {})}
    for name, token in names.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    (view, *_) = adapter.build_prompt(noise_picture(), "what?").picture_views[0]
    adapter.image_processor.image_seq_length = view.token_positions.numel()  # type: ignore[attr-defined]
    config = adapter.model.config
    options = {
        "patch_size": 4,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": getattr(config, "vision_feature_select_strategy", None)
        or "default",
        "vision_aspect_ratio": getattr(config, "vision_aspect_ratio", None),
        "video_processor": None,
        "feature_extractor": None,
        **dict.fromkeys(
            ("image_seq_length", "image_seq_len", "num_image_tokens"), view.token_positions.numel()
        ),
    }
    parameters = inspect.signature(processor_class.__init__).parameters
    build = cast(Callable[..., Callable[..., dict[str, Tensor]]], processor_class)
    processor = build(
        image_processor=adapter.image_processor,
        tokenizer=tokenizer,
        **{name: value for name, value in options.items() if name in parameters},
    )
    return functools.partial(_process_parts, processor) if kind == "idefics" else processor


def _process_flat(
    processor: Callable[..., dict[str, Tensor]],
    images: list[list[Image.Image]],
    **options: object,
) -> dict[str, Tensor]:
    """Process one conversation with a processor that takes the pictures of a list as pages."""
    return processor(images=images[0], **options)


def _process_parts(
    processor: Callable[..., dict[str, Tensor]],
    images: list[list[Image.Image]],
    text: list[str],
    **options: object,
) -> dict[str, Tensor]:
    """Process one conversation with a processor that takes its texts and pictures in order."""
    parts: list[str | Image.Image] = []
    # It puts a start token first.
    texts = text[0].removeprefix("<s>").split("<image>")
    for before, picture in zip(texts, images[0], strict=False):
        parts += [before] * bool(before) + [picture]
    return processor(text=[[*parts, texts[-1]]], **options)


@pytest.mark.parametrize("sizes", [[(50, 40)], [(33, 97)], [(50, 40), (90, 60)]])
def test_prompt_equals_the_official_processor_s(
    adapter: LMMAdapter, sizes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A separate model, since its tokenizer is given attributes.
    own = type(adapter).build_tiny()
    process = official_processor(own, monkeypatch)
    pictures: list[Image.Image] = [noise_picture(*size) for size in sizes]
    chat = own.render_chat([Message("user", "what is it?", tuple(pictures))], None)
    # PaliGemma's processor itself adds the pictures and the line's end to the question.
    text = "what is it?" if own.model.config.model_type == "paligemma" else chat.text
    expected = process(
        images=[pictures],
        text=[text],
        add_special_tokens=not chat.has_special_tokens,
        return_tensors="pt",
    )
    inputs = own.build_prompt(pictures, "what is it?").inputs
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    for name in {*own.image_input_names, *inputs}:
        if name in expected and isinstance(inputs[name], Tensor):
            assert torch.equal(inputs[name], expected[name])
