"""Training of the projector alone, on texts about sticker scenes; it never sees a mask.

First the image tokens learn to point towards the embeddings of the words for what is there, by the
names of each picture's things and stuff alone; then SmolLM2, frozen, reads them while captions and
answers are learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.aya_vision.modeling_aya_vision import AyaVisionForConditionalGeneration
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.embedded_model.recipe.curriculum import Curriculum
from flmm.embedded_model.recipe.hardware import BATCH_SIZE_FACTOR, DEVICE, FAST_BFLOAT16
from flmm.embedded_model.recipe.lmm_architecture import preprocess_pictures
from flmm.embedded_model.recipe.packing import TextBatch, answer_loss
from flmm.embedded_model.recipe.training_loop import TensorDataclass, TrainingStage, train_stage
from flmm.embedded_model.recipe.vision_warm_up import scene_labels
from flmm.lmm.base import LMMAdapter
from flmm.lmm.message import Message
from flmm.lmm.prompt import Prompt
from flmm.progress import ProgressCallback
from flmm.stickers.dataset import SceneDataset
from flmm.stickers.draw import Drawing
from flmm.stickers.kinds import KINDS, STUFF
from flmm.stickers.language import caption_turn, list_turn
from flmm.stickers.questions import ask_description, ask_random_question, generate_conversation
from flmm.stickers.scene import MAX_THINGS
from language_model.packing import (
    compute_image_features,
    compute_last_hidden_states,
    get_word_embedding,
    pack_prompts,
)

NAMES = (*(kind.name for kind in KINDS), *STUFF)
_ALIGNMENT_BATCH_SIZE = 12 * BATCH_SIZE_FACTOR
_MICRO_BATCH_SIZE = 2 * BATCH_SIZE_FACTOR
_QUESTIONS = 4
_HIGHEST = 2
"""A name's logit is the mean of so many image tokens' highest."""


class NameAlignment(nn.Module):
    """The projector, judged by the cosine between image tokens and the words for what is there.

    As late interaction does (Yao et al. 2022, FILIP, arXiv 2111.07783), but with the LLM's own word
    embeddings: what a name's best image tokens are like decides whether it is there.
    """

    def __init__(
        self, lmm: AyaVisionForConditionalGeneration, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        super().__init__()
        self.lmm = (lmm,)  # in a tuple, so that its other parts are not part of this module
        self.projector = lmm.model.multi_modal_projector
        words = get_word_embedding(lmm).weight.detach().float()
        self.register_buffer("mean_word", words.mean(0))
        names = [
            words[tokenizer.encode(f" {name}", add_special_tokens=False)].mean(0) for name in NAMES
        ]
        self.register_buffer("names", functional.normalize(torch.stack(names) - self.mean_word))
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.bias = nn.Parameter(torch.full((len(NAMES),), -3.0))

    mean_word: Tensor
    names: Tensor

    def loss(self, batch: "AlignmentBatch") -> Tensor:
        """Compute 10 times the mean BCE of all names."""
        tokens = compute_image_features(self.lmm[0], batch.pixel_values).float()
        cosines = functional.normalize(tokens - self.mean_word, dim=-1) @ self.names.T
        logits = cosines.topk(_HIGHEST, dim=1).values.mean(1) * self.scale + self.bias
        return 10 * functional.binary_cross_entropy_with_logits(logits, batch.labels)

    @torch.no_grad()
    def scale_like_words(self, pixel_values: Tensor) -> None:
        """Give the image tokens of these pictures the mean distance that words have."""
        words = get_word_embedding(self.lmm[0]).weight.detach().float()
        tokens = compute_image_features(self.lmm[0], pixel_values.to(self.mean_word.device))
        factor = (words - self.mean_word).norm(dim=-1).mean()
        factor /= (tokens.float() - self.mean_word).norm(dim=-1).mean()
        last = self.projector.linear_2
        last.weight *= factor
        last.bias.copy_((last.bias - self.mean_word) * factor + self.mean_word)


@dataclass(frozen=True)
class AlignmentBatch(TensorDataclass):
    """Pictures, (B, 3, S, S), and whether each name is in them, (B, names)."""

    pixel_values: Tensor
    labels: Tensor


def train(
    lmm: AyaVisionForConditionalGeneration, adapter: LMMAdapter, dataset: SceneDataset,
    folder: Path, alignment_steps: int, steps: int, on_progress: ProgressCallback,
) -> None:  # fmt: skip
    """Train the projector in place, resuming from the folder's checkpoints.

    The language model computes in bfloat16 where that is fast; its weights are restored afterwards.
    """
    lmm.to(DEVICE)  # type: ignore[arg-type]
    language_model = lmm.model.language_model
    weights = {name: value.clone() for name, value in language_model.state_dict().items()}
    projector = lmm.model.multi_modal_projector.requires_grad_(True)
    if FAST_BFLOAT16:
        language_model.to(torch.bfloat16)
    _align(lmm, adapter, dataset, folder, alignment_steps, on_progress)
    end = adapter.tokenizer.eos_token_id
    assert isinstance(end, int)
    curriculum = Curriculum(dataset, 3, steps, ((0.05, 2), (0.15, 4), (1.0, MAX_THINGS)))

    def batches(step: int) -> list[TextBatch]:
        indices, random = curriculum.sample(step, 2 * _MICRO_BATCH_SIZE)
        drawings = [dataset.drawing(index) for index in indices]
        halves = drawings[:_MICRO_BATCH_SIZE], drawings[_MICRO_BATCH_SIZE:]
        return [
            pack_prompts([build_prompts(adapter, drawing, random) for drawing in half], end)
            for half in halves
        ]

    def loss(batch: TextBatch) -> Tensor:
        return answer_loss(lmm, batch, compute_last_hidden_states(lmm, batch))

    train_stage(
        TrainingStage("projector", projector, steps, batches, loss, 1e-3), folder, on_progress
    )
    language_model.float().load_state_dict(weights)
    lmm.cpu().requires_grad_(False)


def _align(
    lmm: AyaVisionForConditionalGeneration, adapter: LMMAdapter, dataset: SceneDataset,
    folder: Path, steps: int, on_progress: ProgressCallback,
) -> None:  # fmt: skip
    torch.manual_seed(3)
    alignment = NameAlignment(lmm, adapter.tokenizer)

    def batches(step: int) -> Sequence[AlignmentBatch]:
        random = np.random.default_rng((4, step))
        indices = random.integers(dataset.count, size=2 * _ALIGNMENT_BATCH_SIZE).tolist()
        pixels = preprocess_pictures([dataset.picture(index) for index in indices])
        labels = scene_labels([dataset.scene(index) for index in indices])[:, : len(NAMES)]
        return [
            AlignmentBatch(*parts) for parts in zip(pixels.chunk(2), labels.chunk(2), strict=True)
        ]

    train_stage(
        TrainingStage("alignment", alignment, steps, batches, alignment.loss, 2e-3),
        folder, on_progress,
    )  # fmt: skip
    alignment.scale_like_words(batches(0)[0].pixel_values)


def build_prompts(
    adapter: LMMAdapter, drawing: Drawing, random: np.random.Generator
) -> list[Prompt]:
    """Build a caption, a list, a description asked otherwise, questions, and one with history."""
    scene, picture = drawing.scene, Image.fromarray(drawing.picture)
    turns = [caption_turn(scene), list_turn(scene), ask_description(scene, random)]
    turns += [ask_random_question(scene, random) for _ in range(_QUESTIONS)]
    first, second = generate_conversation(scene, random)
    history = [Message("user", first.question, (picture,)), Message("assistant", first.answer)]
    return [
        *adapter.build_prompts(picture, [(turn.question, turn.answer) for turn in turns]),
        adapter.build_prompt((), second.question, second.answer, history),
    ]
