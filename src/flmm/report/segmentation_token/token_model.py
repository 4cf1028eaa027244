"""Copies of the embedded LMM trained to generate ``<SEG>`` tokens that prompt SAM for masks.

As in LISA (Lai et al. 2024, arXiv 2308.00692, section 3.1), SAM's mask decoder is prompted only
with the last layer's state of that token, through a small MLP. Both vision encoders stay frozen;
all else is trained, on text and masks together. The copied LMM does not change.

Letters: ``B`` pictures, ``L`` tokens, ``K`` ``<SEG>`` tokens, ``D`` LLM width, ``C`` SAM's width,
``e`` side of SAM's image embedding, ``H W`` picture size.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import AddedToken
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

from flmm.embedded_model.recipe.build import TrainingBudget
from flmm.embedded_model.recipe.cpu_attention import use_cpu_attention
from flmm.embedded_model.recipe.hardware import BATCH_SIZE_FACTOR, DEVICE
from flmm.embedded_model.recipe.head_training import sample_expression_turn
from flmm.embedded_model.recipe.lmm_architecture import (
    SPECIAL_TOKENS,
    compute_patch_features,
    find_token_id,
)
from flmm.embedded_model.recipe.packing import (
    TextBatch,
    answer_loss,
    compute_last_hidden_states,
    pack_conversations,
)
from flmm.embedded_model.recipe.training_loop import TensorDataclass, TrainingStage, train_stage
from flmm.grounding.grounder import Grounder
from flmm.head.checkpoint import load_untrained_segmenter
from flmm.lmm.families.llava import LlavaAdapter
from flmm.masks.refiner import MaskRefiner, MaskResolution
from flmm.progress import ProgressCallback
from flmm.stickers.dataset import PICTURE_SIZE, training_style
from flmm.stickers.draw import Drawing, draw, mention_mask
from flmm.stickers.language import AnswerBuilder, Conversation, Turn, caption_turn
from flmm.stickers.scene import generate_scene
from flmm.train.losses import mask_loss
from flmm.types import ImageGeometry, Size
from flmm.user_input import resolve_model

SEG_TOKEN = "<SEG>"
TRAINING_SCENES = TrainingBudget().scenes
"""Training uses scenes 0 … TRAINING_SCENES - 1, as that of the embedded LMM and head."""
BATCH_SIZE, LEARNING_RATE = 4, 1e-3
"""Those of the embedded head's recipe, on two cores."""
_MICRO_BATCH_SIZE = BATCH_SIZE // 2 * BATCH_SIZE_FACTOR
_TEXTS_PER_PICTURE = 3


class TrainingScheme(StrEnum):
    """The texts that a copy is trained on."""

    LISA = "LISA's way"
    """Referring expressions alone, each answered with the token."""
    GLAMM = "GLaMM's way"
    """Also captions in which the token follows each phrase (Rasheed et al. 2024, 2311.03356)."""


@dataclass(frozen=True)
class TokenBatch(TensorDataclass):
    """Pictures, their conversations, and the true mask of each ``<SEG>`` token."""

    texts: TextBatch
    pictures: tuple[NDArray[np.uint8], ...]
    """(H, W, 3) each."""
    targets: Tensor
    """(K, H, W) bool, in the order of the tokens."""


class TokenModel(nn.Module):
    """A copy of an LMM with the token, its MLP, and SAM as it was before the head was trained.

    On the CPU, in float32; training uses a GPU if there is one.

    Args:
        grounder: whose LMM was made by the embedded LMM's recipe (``supports_copying``).

    Raises:
        InputError: the head's SAM cannot be read.
    """

    def __init__(self, grounder: Grounder) -> None:
        super().__init__()
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
        embedding = lmm.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        # The mean makes it as likely as an average word; a random one may be generated everywhere.
        embedding.weight.data[-1] = embedding.weight.data[:-1].mean(0)
        self.lmm = lmm
        self.tokenizer = tokenizer
        self.token_id = find_token_id(tokenizer, SEG_TOKEN)
        self._source_adapter = adapter
        segmenter = load_untrained_segmenter(resolve_model(grounder.model))
        self.refiner = MaskRefiner(segmenter, use_mask=False, use_box=False)
        width = adapter.hidden_size
        torch.manual_seed(0)
        self.projection = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.refiner.hidden_size)
        )

    def build_adapter(self) -> LlavaAdapter:
        """Build an adapter for generation with the copy."""
        original = self._source_adapter
        return LlavaAdapter(
            self.lmm, self.tokenizer, original.image_processor, f"copy of {original.name}"
        )

    def pack_texts(
        self, pictures: Sequence[NDArray[np.uint8]], texts: Sequence[Sequence[Conversation]]
    ) -> TextBatch:
        """Process pictures with the LMM's image processor and tokenize their conversations."""
        inputs = self._source_adapter.process_pictures(
            [Image.fromarray(picture) for picture in pictures]
        )
        vision = self.lmm.config.vision_config
        assert isinstance(vision, CLIPVisionConfig)
        assert isinstance(vision.patch_size, int)
        return pack_conversations(self.tokenizer, inputs["pixel_values"], texts, vision.patch_size)

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
        with torch.no_grad():
            patches = compute_patch_features(self.lmm, texts.pixel_values)
        states = compute_last_hidden_states(self.lmm, texts, patches)
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
            [pixels], [[(answer.build_turn("where", question),) for question in questions]]
        )
        size = (picture.height, picture.width)
        _, logits = self(texts, self.refiner.encode(pixels), size, "picture")
        return torch.as_tensor(logits > 0)


def supports_copying(grounder: Grounder) -> bool:
    """Return whether the LMM is one of the embedded recipe's: a LLaVA with its special tokens."""
    vocabulary = grounder.adapter.tokenizer.get_vocab()
    return isinstance(grounder.adapter, LlavaAdapter) and vocabulary.keys() >= set(SPECIAL_TOKENS)


def train(
    model: TokenModel,
    scheme: TrainingScheme,
    folder: Path,
    steps: int,
    on_progress: ProgressCallback,
) -> None:
    """Train the copy in place, resuming from the folder's checkpoint if there is one.

    Each step's pictures are those of the embedded head's recipe at that step.
    """

    def batches(step: int) -> list[TokenBatch]:
        random = np.random.default_rng((5, step))
        drawings = [
            draw(generate_scene(index), PICTURE_SIZE, training_style(index))
            for index in random.integers(TRAINING_SCENES, size=2 * _MICRO_BATCH_SIZE).tolist()
        ]
        return [
            build_token_batch(model, scheme, part, random)
            for part in (drawings[:_MICRO_BATCH_SIZE], drawings[_MICRO_BATCH_SIZE:])
        ]

    attention, threads = model.lmm.config._attn_implementation, torch.get_num_threads()
    modules = _TrainableModules(model)
    use_cpu_attention(model.lmm)
    model.to(DEVICE)
    try:
        train_stage(
            TrainingStage(scheme.name.lower(), modules, steps, batches,
                lambda batch: compute_token_loss(model, batch), LEARNING_RATE),
            folder, on_progress,
        )  # fmt: skip
    finally:
        model.cpu()
        torch.set_num_threads(threads)
        model.lmm.set_attn_implementation(attention)


class _TrainableModules(nn.Module):
    """The trained modules of a copy, so that checkpoints omit the frozen vision encoders."""

    def __init__(self, model: TokenModel) -> None:
        super().__init__()
        self.language_model = model.lmm.model.language_model
        self.projector = model.lmm.model.multi_modal_projector
        self.projection = model.projection
        self.prompt_encoder = model.refiner.sam.prompt_encoder
        self.mask_decoder = model.refiner.sam.mask_decoder
        self.language_model.requires_grad_(True)
        self.projector.requires_grad_(True)


def build_token_batch(
    model: TokenModel,
    scheme: TrainingScheme,
    drawings: Sequence[Drawing],
    random: np.random.Generator,
) -> TokenBatch:
    """Build three texts a picture: expressions, the first a caption in GLaMM's way."""
    texts: list[list[Conversation]] = []
    targets: list[Tensor] = []
    for drawing in drawings:
        turns = [
            answer_with_token(sample_expression_turn(drawing, random))
            for _ in range(_TEXTS_PER_PICTURE)
        ]
        if scheme is TrainingScheme.GLAMM:
            turns[0] = append_token_to_phrases(caption_turn(drawing.scene))
        texts.append([(turn,) for turn in turns])
        targets += [
            torch.from_numpy(mention_mask(drawing, mention))
            for turn in turns
            for mention in turn.mentions
        ]
    pictures = tuple(drawing.picture for drawing in drawings)
    return TokenBatch(model.pack_texts(pictures, texts), pictures, torch.stack(targets))


def answer_with_token(turn: Turn) -> Turn:
    """Answer the question with the token, which gets the mask of the answer's first phrase."""
    mention = turn.mentions[0]
    answer = (
        AnswerBuilder()
        .add_text("It is ")
        .add_mention(SEG_TOKEN, mention.things, mention.bands)
        .add_text(".")
    )
    return answer.build_turn(turn.task, turn.question)


def append_token_to_phrases(turn: Turn) -> Turn:
    """Insert the token after each phrase of the answer."""
    answer, end = AnswerBuilder(), 0
    for mention in turn.mentions:
        answer.add_text(turn.answer[end : mention.start])
        phrase = f"{turn.answer[mention.start : mention.end]} {SEG_TOKEN}"
        answer.add_mention(phrase, mention.things, mention.bands)
        end = mention.end
    return answer.add_text(turn.answer[end:]).build_turn(turn.task, turn.question)


def compute_token_loss(model: TokenModel, batch: TokenBatch) -> Tensor:
    """Compute the answers' cross-entropy plus BCE + Dice of the masks (LISA, section 3.2)."""
    embeddings = model.refiner.encode(*batch.pictures)
    height, width = batch.targets.shape[1:]
    states, masks = model(batch.texts, embeddings, (height, width), "low")
    truth = functional.interpolate(batch.targets.float()[:, None], masks.shape[1:], mode="area")
    return answer_loss(model.lmm, batch.texts, states) + mask_loss(masks, truth[:, 0])
