"""The untrained embedded LMM: a tokenizer, a CLIP-style ViT and a small Llama."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llava.configuration_llava import LlavaConfig
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

from flmm.stickers.language import MULTIWORD_TOKENS
from flmm.stickers.questions import build_tokenizer_texts

IMAGE_TOKEN, USER_TOKEN, ASSISTANT_TOKEN = "<image>", "<|user|>", "<|assistant|>"
BEGIN_TOKEN, END_TOKEN, PADDING_TOKEN = "<s>", "</s>", "<pad>"
SPECIAL_TOKENS = (PADDING_TOKEN, BEGIN_TOKEN, END_TOKEN, IMAGE_TOKEN, USER_TOKEN, ASSISTANT_TOKEN)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages if message['role'] != 'system' %}"
    "{% if message['role'] == 'user' %}<|user|>{% else %}<|assistant|>{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""It is trained without system messages, so they are left out."""
ANSWER_WITHOUT_PICTURES = "I see no picture."
"""It is trained on questions about pictures alone."""

IMAGE_SIZE, PATCH_SIZE = 160, 8
SMALL_IMAGE_SIZE = 96
"""Side of the first training pictures: 144 image tokens cost a third of 400."""


def build_tokenizer(vocabulary_size: int = 1200) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on texts about scenes; it encodes any Unicode text without loss."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(build_tokenizer_texts(), trainer)
    tokenizer.add_tokens([AddedToken(words, normalized=False) for words in MULTIWORD_TOKENS])
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BEGIN_TOKEN,
        eos_token=END_TOKEN,
        pad_token=PADDING_TOKEN,
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        additional_special_tokens=[USER_TOKEN, ASSISTANT_TOKEN],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=1024,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def find_token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """Return the id of a token."""
    token_id = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(token_id, int)
    return token_id


def build_lmm(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """Build the untrained model, about 3.7 M parameters."""
    vision = CLIPVisionConfig(
        hidden_size=192, intermediate_size=640, num_hidden_layers=4, num_attention_heads=6,
        image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, projection_dim=192,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=6, num_key_value_heads=6, max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=find_token_id(tokenizer, IMAGE_TOKEN),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        tie_word_embeddings=True,
    )
    config.update({"answer_without_pictures": ANSWER_WITHOUT_PICTURES})
    return LlavaForConditionalGeneration(config)


def preprocess_pictures(
    pictures: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]],
    image_size: int = IMAGE_SIZE,
) -> Tensor:
    """Resize and normalise square uint8 pictures as the image processor does.

    Return (B, 3, S, S) in -1..1 with S the `image_size`.
    """
    resized = [
        np.asarray(
            Image.fromarray(picture).resize((image_size, image_size), Image.Resampling.BICUBIC)
        )
        for picture in pictures
    ]
    stacked = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)
    return stacked.float().div_(127.5).sub_(1)


def compute_patch_features(lmm: LlavaForConditionalGeneration, pixel_values: Tensor) -> Tensor:
    """Return the projector's input: (B, 3, S, S) → (B, S/8 · S/8, width), for any S."""
    tower = lmm.model.vision_tower
    interpolate = pixel_values.shape[-1] != tower.config.image_size
    states: Tensor = tower(pixel_values, interpolate_pos_encoding=interpolate).last_hidden_state
    return states[:, 1:]
