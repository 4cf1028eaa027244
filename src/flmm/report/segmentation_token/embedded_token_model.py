"""Copies of the embedded LMM with a ``<SEG>`` token: all but the vision encoders is trained."""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

from flmm.embedded_model.recipe.lmm_architecture import (
    SPECIAL_TOKENS,
    compute_patch_features,
    find_token_id,
)
from flmm.embedded_model.recipe.packing import (
    TextBatch,
    compute_last_hidden_states,
    pack_conversations,
)
from flmm.grounding.grounder import Grounder
from flmm.head.checkpoint import load_untrained_segmenter
from flmm.lmm.families.llava import LlavaAdapter
from flmm.report.segmentation_token.token_model import (
    SEG_TOKEN,
    TokenModel,
    set_to_mean_embedding,
)
from flmm.stickers.language import Turn


class EmbeddedTokenModel(TokenModel):
    """A copy of the embedded LMM with the token, and SAM as it was before the head was trained.

    Args:
        grounder: whose LMM was made by the embedded LMM's recipe (``supports_copying``).

    Raises:
        InputError: the head's SAM cannot be read.
    """

    lmm: LlavaForConditionalGeneration

    def __init__(self, grounder: Grounder) -> None:
        adapter = grounder.adapter
        tokenizer, lmm = deepcopy(adapter.tokenizer), deepcopy(adapter.model)
        assert isinstance(tokenizer, PreTrainedTokenizerFast)
        assert isinstance(lmm, LlavaForConditionalGeneration)
        lmm.to("cpu", torch.float32)  # type: ignore[arg-type]
        # lstrip takes in the blank before it, so that the words around it keep their tokens.
        tokenizer.add_tokens(
            [AddedToken(SEG_TOKEN, lstrip=True, special=True)], special_tokens=True
        )
        lmm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        token_id = find_token_id(tokenizer, SEG_TOKEN)
        set_to_mean_embedding(lmm, token_id)
        super().__init__(lmm, token_id, load_untrained_segmenter(grounder.model))
        self.tokenizer = tokenizer
        self._source_adapter = adapter

    def build_adapter(self) -> LlavaAdapter:
        original = self._source_adapter
        return LlavaAdapter(
            self.lmm, self.tokenizer, original.image_processor, f"copy of {original.name}"
        )

    def build_trained_module(self) -> nn.Module:
        return _TrainableModules(self)

    def pack_texts(
        self, pictures: Sequence[NDArray[np.uint8]], turns: Sequence[Sequence[Turn]]
    ) -> TextBatch:
        inputs = self._source_adapter.process_pictures(
            [Image.fromarray(picture) for picture in pictures]
        )
        vision = self.lmm.config.vision_config
        assert isinstance(vision, CLIPVisionConfig)
        assert isinstance(vision.patch_size, int)
        conversations = [[(turn,) for turn in row] for row in turns]
        return pack_conversations(
            self.tokenizer, inputs["pixel_values"], conversations, vision.patch_size
        )

    def compute_states(self, texts: TextBatch) -> Tensor:
        with torch.no_grad():
            patches = compute_patch_features(self.lmm, texts.pixel_values)
        return compute_last_hidden_states(self.lmm, texts, patches)


def supports_copying(grounder: Grounder) -> bool:
    """Return whether the LMM is one of the embedded recipe's: a LLaVA with its special tokens."""
    vocabulary = grounder.adapter.tokenizer.get_vocab()
    return isinstance(grounder.adapter, LlavaAdapter) and vocabulary.keys() >= set(SPECIAL_TOKENS)


class _TrainableModules(nn.Module):
    """The trained modules of a copy, so that checkpoints omit the frozen vision encoders."""

    def __init__(self, model: EmbeddedTokenModel) -> None:
        super().__init__()
        self.language_model = model.lmm.model.language_model
        self.projector = model.lmm.model.multi_modal_projector
        self.projection = model.projection
        self.prompt_encoder = model.refiner.sam.prompt_encoder
        self.mask_decoder = model.refiner.sam.mask_decoder
        self.language_model.requires_grad_(True)
        self.projector.requires_grad_(True)
