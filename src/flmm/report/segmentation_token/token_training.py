"""Training of copies with a ``<SEG>`` token, on text and masks of sticker scenes together.

Letters: ``K`` ``<SEG>`` tokens, ``H W`` picture size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from flmm.embedded_model.recipe.build import TrainingBudget
from flmm.embedded_model.recipe.cpu_attention import use_cpu_attention
from flmm.embedded_model.recipe.hardware import BATCH_SIZE_FACTOR, DEVICE
from flmm.embedded_model.recipe.head_training import sample_expression_turn
from flmm.embedded_model.recipe.packing import TextBatch, answer_loss
from flmm.embedded_model.recipe.training_loop import TensorDataclass, TrainingStage, train_stage
from flmm.progress import ProgressCallback
from flmm.report.segmentation_token.token_model import SEG_TOKEN, TokenModel
from flmm.stickers.dataset import PICTURE_SIZE, training_style
from flmm.stickers.draw import Drawing, draw, mention_mask
from flmm.stickers.language import AnswerBuilder, Turn, caption_turn
from flmm.stickers.scene import generate_scene
from flmm.train.losses import mask_loss

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
    """Pictures, texts about them, and the true mask of each ``<SEG>`` token."""

    texts: TextBatch
    pictures: tuple[NDArray[np.uint8], ...]
    """(H, W, 3) each."""
    targets: Tensor
    """(K, H, W) bool, in the order of the tokens."""


class Scenes(Protocol):
    """The scenes of a training, as those of a ``SceneDataset``."""

    @property
    def count(self) -> int:
        """The number of scenes."""

    def drawing(self, index: int) -> Drawing:
        """Return a scene's drawing, ``index`` in 0 … count - 1."""


@dataclass(frozen=True)
class UncachedScenes:
    """Training scenes that are drawn each time."""

    count: int = TRAINING_SCENES

    def drawing(self, index: int) -> Drawing:
        """Draw a scene."""
        return draw(generate_scene(index), PICTURE_SIZE, training_style(index))


def train(
    model: TokenModel,
    scheme: TrainingScheme,
    folder: Path,
    steps: int,
    on_progress: ProgressCallback,
    scenes: Scenes = UncachedScenes(),
    learning_rate: float = LEARNING_RATE,
) -> None:
    """Train the copy in place, resuming from the folder's checkpoint if there is one.

    Each step's pictures are those of the embedded head's recipe at that step.
    """

    def batches(step: int) -> list[TokenBatch]:
        random = np.random.default_rng((5, step))
        indices = random.integers(scenes.count, size=2 * _MICRO_BATCH_SIZE).tolist()
        drawings = [scenes.drawing(index) for index in indices]
        return [
            build_token_batch(model, scheme, part, random)
            for part in (drawings[:_MICRO_BATCH_SIZE], drawings[_MICRO_BATCH_SIZE:])
        ]

    attention, threads = model.lmm.config._attn_implementation, torch.get_num_threads()
    module = model.build_trained_module()
    use_cpu_attention(model.lmm)
    model.to(DEVICE)
    try:
        train_stage(
            TrainingStage(scheme.name.lower(), module, steps, batches,
                lambda batch: compute_token_loss(model, batch), learning_rate),
            folder, on_progress,
        )  # fmt: skip
    finally:
        model.cpu()
        torch.set_num_threads(threads)
        model.lmm.set_attn_implementation(attention)


def build_token_batch(
    model: TokenModel,
    scheme: TrainingScheme,
    drawings: Sequence[Drawing],
    random: np.random.Generator,
) -> TokenBatch:
    """Build three texts a picture: expressions, the first a caption in GLaMM's way."""
    texts: list[list[Turn]] = []
    targets: list[Tensor] = []
    for drawing in drawings:
        turns = [
            answer_with_token(sample_expression_turn(drawing, random))
            for _ in range(_TEXTS_PER_PICTURE)
        ]
        if scheme is TrainingScheme.GLAMM:
            turns[0] = append_token_to_phrases(caption_turn(drawing.scene))
        texts.append(turns)
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
