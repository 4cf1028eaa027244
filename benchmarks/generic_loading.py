"""Time to load an LMM with the generic adapter, which finds out where image tokens lie.

    python benchmarks/generic_loading.py [REPEATS]

Compared with transformers' model, image processor, tokenizer and processor alone, in turn and from
the same files: random LMMs with an LLM of Qwen2-0.5B's size and vision towers of real sizes, in
bfloat16 (1 to 3 GB of disk). Prints medians of REPEATS (default 5) and their ratio; then what
finding the image tokens adds to the first picture, beside encoding it.
"""

import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from transformers.configuration_utils import PreTrainedConfig
from transformers.image_processing_backends import PilBackend
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin
from transformers.utils.logging import disable_progress_bar

from flmm.bench.models import HALF_BILLION
from flmm.lmm.generic.adapter import GenericAdapter
from flmm.lmm.generic.processor import build_processor, load_processor
from flmm.lmm.loading import load_components
from flmm.lmm.placement import Placement
from flmm.lmm.tiny_models import find_token_id, random_model, tiny_tokenizer

_TEXT = {
    "vocab_size": HALF_BILLION.vocabulary_size,
    "hidden_size": HALF_BILLION.hidden_size,
    "intermediate_size": HALF_BILLION.intermediate_size,
    "num_hidden_layers": HALF_BILLION.layers,
    "num_attention_heads": HALF_BILLION.heads,
    "num_key_value_heads": HALF_BILLION.key_value_heads,
    "pad_token_id": 2,
}


@dataclass(frozen=True)
class LMMSize:
    """A type of LMM, and the settings of a usual vision tower."""

    model_type: str
    text: Mapping[str, object]
    vision: Mapping[str, object]
    config: Mapping[str, object]
    images: Callable[[], PilBackend]
    processor: Mapping[str, object]
    image_token: str


SIZES = (
    LMMSize(
        "vipllava",
        {"model_type": "llama", **_TEXT},
        {
            "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
            "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
        },
        {"vision_feature_layers": [-2, -5, -8, -11, 6]},
        lambda: CLIPImageProcessorPil(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        ),
        {
            "patch_size": 14, "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
        "<image>",
    ),
    LMMSize(
        "aya_vision",
        {"model_type": "cohere2", **_TEXT, "layer_types": ["full_attention"] * HALF_BILLION.layers},
        {
            "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
            "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 364, "patch_size": 14,
            "vision_use_head": False,
        },
        {},
        lambda: GotOcr2ImageProcessorPil(size={"height": 364, "width": 364}),
        {"patch_size": 28, "img_size": 364},
        "<|IMG_PATCH|>",
    ),
    LMMSize(
        "qwen2_5_vl",
        {
            **_TEXT,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]
            },
        },
        {"out_hidden_size": HALF_BILLION.hidden_size, "depth": 32, "hidden_size": 1280},
        {},
        Qwen2VLImageProcessorPil,
        {},
        "<|image_pad|>",
    ),
)  # fmt: skip


def save_lmm(size: LMMSize, folder: str) -> None:
    tokenizer = tiny_tokenizer(
        "<image>", "<|IMG_PATCH|>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>",
        "<|vision_end|>",
    )  # fmt: skip
    token_id = find_token_id(tokenizer, size.image_token)
    config_class = cast(Callable[..., PreTrainedConfig], CONFIG_MAPPING[size.model_type])
    config = config_class(
        text_config=dict(size.text),
        vision_config=dict(size.vision),
        image_token_id=token_id,
        image_token_index=token_id,
        **size.config,
    )
    model_class = cast(
        Callable[[PreTrainedConfig], PreTrainedModel],
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)],
    )
    model = random_model(lambda: model_class(config)).to(torch.bfloat16)  # type: ignore[arg-type]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images = size.images()
    images.save_pretrained(folder)
    processor_class = cast(type[ProcessorMixin], PROCESSOR_MAPPING[type(config)])
    build_processor(processor_class, images, tokenizer, dict(size.processor)).save_pretrained(
        folder
    )


def load_without_adapter(folder: str, model_class: type[PreTrainedModel]) -> None:
    """Load what the generic adapter has loaded before it finds anything out."""
    model, tokenizer, images = load_components(
        model_class, folder, Placement(dtype=torch.bfloat16), None
    )
    load_processor(folder, None, model.config, images, tokenizer)


def measure(folder: str, repeats: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each load, without the adapter and with it; the first of each is not
    counted."""
    alone: list[float] = []
    adapted: list[float] = []
    placement = Placement(dtype=torch.bfloat16)
    model_class = type(GenericAdapter.load(folder, placement).model)
    for _ in range(repeats + 1):
        for load, seconds in (
            (lambda: load_without_adapter(folder, model_class), alone),
            (lambda: GenericAdapter.load(folder, placement), adapted),
        ):
            gc.collect()
            begin = time.perf_counter()
            load()
            seconds.append(time.perf_counter() - begin)
    return alone[1:], adapted[1:]


def measure_first_picture(folder: str) -> tuple[float, float]:
    """Return the seconds that a picture's image tokens take to be found, and its encoding."""
    adapter = GenericAdapter.load(folder, Placement(dtype=torch.bfloat16))
    picture = Image.new("RGB", (640, 480))
    begin = time.perf_counter()
    adapter.build_prompt(picture, "What is it?")
    found = time.perf_counter()
    prompt = adapter.build_prompt(picture, "What is it?")
    built = time.perf_counter()
    adapter.collate([prompt])
    return 2 * found - begin - built, time.perf_counter() - built


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    disable_progress_bar()  # type: ignore[no-untyped-call]
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            save_lmm(size, folder)
            gigabytes = sum(file.stat().st_size for file in Path(folder).glob("*")) / 1e9
            alone, adapted = (statistics.median(times) for times in measure(folder, repeats))
            finding, encoding = measure_first_picture(folder)
        print(
            f"{size.model_type:12} {gigabytes:.1f} GB  without the adapter {alone:5.2f} s  with it"
            f" {adapted:5.2f} s  ratio {adapted / alone:.2f}; first picture: finding its image"
            f" tokens {finding:.2f} s, encoding it {encoding:.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
