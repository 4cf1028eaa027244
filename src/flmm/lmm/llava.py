"""LLaVA 1.5 and its relatives: transformers' ``LlavaForConditionalGeneration``.

One square view of the picture, CLIP or SigLIP as vision encoder, any decoder-only LLM.
"""

from typing import ClassVar, Self

import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llava.configuration_llava import LlavaConfig
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter, Prompt
from flmm.lmm.chat import encode_chat, load_tokenizer, render_chat, tiny_tokenizer
from flmm.lmm.images import ImageSteps, load_image_processor


class LlavaAdapter(LMMAdapter):
    """LLaVA: ``h·w`` image tokens row by row in the place of one ``<image>``."""

    model_types: ClassVar[tuple[str, ...]] = ("llava",)

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: PilBackend,
        name: str,
        revision: str | None = None,
    ) -> None:
        super().__init__(model, tokenizer, name, revision)
        self.image_processor = image_processor
        self._image_steps = ImageSteps.of(image_processor)
        config = model.config
        assert isinstance(config, LlavaConfig)
        vision = config.vision_config
        if not isinstance(vision, CLIPVisionConfig | SiglipVisionConfig):
            raise InputError(
                f"LMM {name!r} has a vision tower that flmm cannot read;"
                " choose a LLaVA with a CLIP or SigLIP vision tower"
            )
        assert isinstance(vision.patch_size, int)
        assert isinstance(vision.image_size, int)
        self._patch = vision.patch_size
        self._canvas = (vision.image_size, vision.image_size)
        class_tokens = 1 if isinstance(vision, CLIPVisionConfig) else 0
        dropped_tokens = 1 if config.vision_feature_select_strategy == "default" else 0
        self._leading_tokens = class_tokens - dropped_tokens
        if self._leading_tokens < 0:
            raise InputError(
                f"LMM {name!r} drops a class token that SigLIP does not have;"
                " set vision_feature_select_strategy to 'full' in its config.json"
            )
        image_token = tokenizer.convert_ids_to_tokens(config.image_token_index)
        if not isinstance(image_token, str):
            raise InputError(
                f"LMM {name!r}: its tokenizer has no token {config.image_token_index}, which its"
                " config.json names as image_token_index; save the right tokenizer beside it"
            )
        self._image_token = image_token
        self._image_token_id = config.image_token_index

    @classmethod
    def load(
        cls,
        name: str,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        revision: str | None = None,
    ) -> Self:
        on_cpu = torch.device(device).type == "cpu"
        try:
            model = LlavaForConditionalGeneration.from_pretrained(
                name,
                revision=revision or "main",
                dtype=dtype or (torch.float32 if on_cpu else "auto"),
            )
            image_processor = load_image_processor(name, revision)
            tokenizer = load_tokenizer(name, revision)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"LMM {name!r} cannot be loaded: {reason}") from error
        model.to(torch.device(device))  # type: ignore[arg-type]
        return cls(model, tokenizer, image_processor, name, revision)

    @classmethod
    def tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer("<image>")
        image_token_id = tokenizer.convert_tokens_to_ids("<image>")
        assert isinstance(image_token_id, int)
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=32,
                patch_size=4,
            ),
            text_config=LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2 if grouped_queries else 4,
                max_position_embeddings=512,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                # Sharper than usual, for near-uniform attention would let any mistake pass.
                initializer_range=0.3,
            ),
            image_token_index=image_token_id,
            vision_feature_layer=-1,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = LlavaForConditionalGeneration(config)
        processor = CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
        return cls(model, tokenizer, processor, name="tiny-llava")

    def prepare(self, image: Image.Image, question: str, answer: str | None = None) -> Prompt:
        question = question.strip()
        answer = None if answer is None else answer.strip()
        chat = render_chat(self.tokenizer, self._image_token, question, answer)
        encoded = encode_chat(self.tokenizer, chat)
        picture = image.convert("RGB")
        geometry = self._image_steps.geometry((picture.height, picture.width), self._patch)
        pixel_values = self.image_processor(picture, return_tensors="pt")["pixel_values"]
        if geometry.canvas != self._canvas:
            raise InputError(
                f"LMM {self.name!r}: its image processor makes {geometry.canvas} pixels but its"
                f" vision tower reads {self._canvas}; mend size and crop_size in its"
                " preprocessor_config.json"
            )
        assert tuple(pixel_values.shape[-2:]) == geometry.canvas, (
            f"the geometry {geometry} is not what the image processor made: {pixel_values.shape}"
        )
        cells = geometry.grid[0] * geometry.grid[1]
        extra = self._leading_tokens + cells - 1
        at = encoded.token_ids.index(self._image_token_id)
        placeholders = [self._image_token_id] * extra
        token_ids = [*encoded.token_ids[:at], *placeholders, *encoded.token_ids[at:]]
        input_ids = torch.tensor([token_ids])
        return Prompt(
            inputs={
                "input_ids": input_ids,
                "attention_mask": torch.ones_like(input_ids),
                "pixel_values": pixel_values,
            },
            image_columns=torch.arange(cells) + at + self._leading_tokens,
            geometry=geometry,
            question=question,
            question_start=encoded.question_start + extra * (encoded.question_start > at),
            question_offsets=encoded.question_offsets,
            answer_start=encoded.answer_start + extra * (encoded.answer_start > at),
            answer=answer,
            answer_offsets=encoded.answer_offsets,
        )
