"""PaliGemma 1 and 2: pictures, one question and its answer; no conversation."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from torch import Tensor
from transformers.modeling_utils import PreTrainedModel
from transformers.models.gemma2.configuration_gemma2 import Gemma2Config
from transformers.models.paligemma.configuration_paligemma import PaliGemmaConfig
from transformers.models.paligemma.modeling_paligemma import PaliGemmaForConditionalGeneration
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter
from flmm.lmm.chat import RenderedChat, check_no_control_tokens
from flmm.lmm.image_processing import grid_view
from flmm.lmm.message import Message
from flmm.lmm.prompt import PictureLayout, ProcessedPicture
from flmm.lmm.tiles import stretched_geometry
from flmm.lmm.tiny_models import (
    find_token_id,
    random_model,
    tiny_text_config,
    tiny_tokenizer,
    tiny_vision_config,
)


class PaliGemmaAdapter(LMMAdapter):
    """PaliGemma: bidirectional attention in pictures and question, causal in the answer."""

    model_types: ClassVar[tuple[str, ...]] = ("paligemma",)
    hub_ids: ClassVar[tuple[str, ...]] = ("google/paligemma2-3b-mix-224",)
    model_class: ClassVar[type[PreTrainedModel]] = PaliGemmaForConditionalGeneration
    token_type_input_names: tuple[str, ...] = ("token_type_ids",)
    supports_conversation: ClassVar[bool] = False

    def render_chat(self, messages: Sequence[Message], answer: str | None) -> RenderedChat:
        if len(messages) > 1:
            raise InputError(
                f"LMM {self.name!r} is a PaliGemma, which answers one question and holds no"
                " conversation; leave out the history"
            )
        question = messages[0].text
        check_no_control_tokens(self.tokenizer, self.placeholder, messages, answer)
        text = self.placeholder * len(messages[0].pictures) + str(self.tokenizer.bos_token)
        question_span = (len(text), len(text) + len(question))
        text += f"{question}\n"
        answer_span = None if answer is None else (len(text), len(text) + len(answer))
        return RenderedChat(
            text + (answer or ""), question_span, answer_span, has_special_tokens=True
        )

    def compute_token_type_ids(self, token_ids: Tensor, is_answer: Tensor) -> Mapping[str, Tensor]:
        marks = ((token_ids != self.image_token_id) & is_answer).long()
        return dict.fromkeys(self.token_type_input_names, marks)

    def layout(self, picture: ProcessedPicture) -> PictureLayout:
        vision = self.model.config.vision_config
        canvas = int(vision.image_size)
        side = canvas // int(vision.patch_size)
        view = grid_view(stretched_geometry(picture.size, (canvas, canvas), (side, side)))
        return PictureLayout(self.image_token * side**2, (view,))

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer("<image>")
        sizes = tiny_text_config(tokenizer, grouped_queries)
        config = PaliGemmaConfig(
            vision_config=SiglipVisionConfig(  # type: ignore[call-arg]
                **tiny_vision_config(32, 4),
                projection_dim=32,
                vision_use_head=False,
            ),
            text_config=Gemma2Config(
                **sizes,
                head_dim=8,
                query_pre_attn_scalar=8,
                sliding_window=48,
                attn_logit_softcapping=2.0,
            ),
            image_token_index=find_token_id(tokenizer, "<image>"),
            projection_dim=32,
            hidden_size=32,
        )
        model = random_model(lambda: PaliGemmaForConditionalGeneration(config))
        processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
        return cls(model, tokenizer, processor, name="tiny-paligemma")
