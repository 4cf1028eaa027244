"""Copies of an LMM trained to generate ``<SEG>`` tokens that prompt SAM for masks.

As in LISA (Lai et al. 2024, arXiv 2308.00692, section 3.1), SAM's mask decoder is prompted only
with the last layer's state of that token, through a small MLP. Both vision encoders stay frozen.
The copied LMM does not change.

Letters: ``B`` pictures, ``L`` tokens, ``K`` ``<SEG>`` tokens, ``D`` LLM width, ``C`` SAM's width,
``e`` side of SAM's image embedding, ``H W`` picture size, ``P`` questions.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

from flmm.embedded_model.recipe.packing import TextBatch
from flmm.lmm.base import LMMAdapter
from flmm.masks.refiner import MaskRefiner, MaskResolution
from flmm.segmenters.base import Segmenter
from flmm.stickers.language import AnswerBuilder, Turn
from flmm.types import ImageGeometry, Size

SEG_TOKEN = "<SEG>"


class TokenModel(nn.Module, ABC):
    """A copy of an LMM with the token, an MLP from the token's state to SAM's prompt, and SAM.

    On the CPU, in float32; training uses a GPU if there is one.

    Args:
        lmm: the copy; its vocabulary has the token.
        token_id: the token's id.
        segmenter: SAM as it was before a head was trained.
    """

    def __init__(self, lmm: PreTrainedModel, token_id: int, segmenter: Segmenter) -> None:
        super().__init__()
        self.lmm = lmm
        self.token_id = token_id
        self.refiner = MaskRefiner(segmenter, use_mask=False, use_box=False)
        width = lmm.config.get_text_config().hidden_size
        torch.manual_seed(0)
        self.projection = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.refiner.hidden_size)
        )

    @abstractmethod
    def build_adapter(self) -> LMMAdapter:
        """Build an adapter for generation with the copy."""

    @abstractmethod
    def build_trained_module(self) -> nn.Module:
        """Build the module of the copy's trained parameters, without the frozen vision encoders."""

    @abstractmethod
    def pack_texts(
        self, pictures: Sequence[NDArray[np.uint8]], turns: Sequence[Sequence[Turn]]
    ) -> TextBatch:
        """Process pictures with the LMM's image processor and tokenize each one's turns."""

    @abstractmethod
    def compute_states(self, texts: TextBatch) -> Tensor:
        """Compute the last layer's states, (B, L, D)."""

    def forward(
        self, texts: TextBatch, embeddings: Tensor, picture_size: Size, resolution: MaskResolution
    ) -> tuple[Tensor, Tensor]:
        """Compute the last layer's states and a mask for each ``<SEG>`` token, at least one.

        Args:
            texts: of B pictures.
            embeddings: (B, C, e, e), from the refiner's ``encode``.
            picture_size: (H, W).
            resolution: of the masks.

        Returns:
            (B, L, D), and (K, H, W) logits, or at "low" (K, 4 · e, 4 · e) cut to the picture.
        """
        states = self.compute_states(texts)
        rows, columns = torch.nonzero(texts.input_ids == self.token_id, as_tuple=True)
        prompts = self.projection(states[rows, columns])[:, None]
        # No mask prompt; SAM gets the whole picture, not the LMM's canvas.
        no_mask = torch.zeros(len(rows), 1, 1, device=states.device)
        geometry = ImageGeometry(picture_size, picture_size, (0, 0), picture_size, (1, 1))
        masks: Tensor = self.refiner(no_mask, list(prompts), geometry, embeddings, rows, resolution)
        return states, masks

    @torch.no_grad()
    def predict_masks(self, picture: Image.Image, questions: Sequence[str]) -> Tensor:
        """Predict (P, H, W) bool: the token's mask in an answer to each question."""
        pixels = np.asarray(picture.convert("RGB"))
        answer = AnswerBuilder().add_text("It is ").add_mention(SEG_TOKEN).add_text(".")
        texts = self.pack_texts(
            [pixels], [[answer.build_turn("where", question) for question in questions]]
        )
        size = (picture.height, picture.width)
        _, logits = self(texts, self.refiner.encode(pixels), size, "picture")
        return torch.as_tensor(logits > 0)


@torch.no_grad()
def set_to_mean_embedding(lmm: PreTrainedModel, token_id: int) -> None:
    """Give a token the mean of all others' embeddings.

    That makes it as likely as an average word; a random one may be generated everywhere.
    """
    embedding = lmm.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    others = torch.arange(len(embedding.weight)) != token_id
    embedding.weight[token_id] = embedding.weight[others].mean(0)
