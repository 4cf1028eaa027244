"""Training of the embedded head on the frozen LMM's traces of captions, answers and expressions.

Some expressions mean nothing in the picture, and their target is an empty mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from flmm.attention.spans import make_phrase_span
from flmm.attention.tracing import trace_texts
from flmm.embedded_model.protocols import expression_turn
from flmm.embedded_model.recipe.hardware import BATCH_SIZE_FACTOR, DEVICE
from flmm.embedded_model.recipe.training_loop import TensorDataclass, TrainingStage, train_stage
from flmm.head.config import HeadConfig
from flmm.head.model import GroundingHead
from flmm.lmm.base import LMMAdapter
from flmm.progress import ProgressCallback, no_progress
from flmm.segmenters.base import Segmenter
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.stickers.dataset import SceneDataset
from flmm.stickers.draw import Drawing, mention_mask
from flmm.stickers.language import (
    SEGMENT_QUESTION,
    Turn,
    band_place_turn,
    caption_turn,
    list_turn,
    referring_expressions,
    thing_place_turn,
)
from flmm.stickers.questions import ask_random_question, ask_tag_number, choose_absent_expression
from flmm.train.losses import mask_loss
from flmm.types import ImageGeometry

LMM_NAME = "embedded:lmm"
SAM_NAME = "sam"
_MICRO_BATCH_SIZE = 2 * BATCH_SIZE_FACTOR
_EXPRESSIONS = 5
_ABSENT_PROBABILITY = 0.2
_SAME_KIND_PROBABILITY = 0.5


@dataclass(frozen=True)
class HeadBatch(TensorDataclass):
    """The head's inputs and targets for the P phrases of B pictures."""

    pixel_values: Tensor
    """(B, 3, S, S): the input of SAM's vision encoder."""
    attention: Tensor
    """(P, M*N, h, w): attention maps of M layers and N heads, merged over a phrase's tokens."""
    hidden_states: tuple[Tensor, ...]
    """P tensors (M, T, D): those of a phrase's T tokens."""
    picture_indices: Tensor
    """(P,): index of each phrase's picture."""
    targets: Tensor
    """(P, H, W) bool."""
    geometry: ImageGeometry
    answer_hidden_states: Tensor
    """(M, T, D): those of all answers' T tokens."""
    groundable: Tensor
    """(T,) float: 1 for tokens that belong to a phrase, else 0."""


def sample_expression_turn(drawing: Drawing, random: np.random.Generator) -> Turn:
    """Sample a question for the place of a thing or stuff; its answer begins with an expression.

    Half of the things are chosen among those with others of their kind, if there are any.
    """
    scene = drawing.scene
    if random.random() < 0.2:
        return band_place_turn(scene, int(random.integers(len(scene.bands))))
    index = int(random.integers(len(scene.things)))
    if random.random() < _SAME_KIND_PROBABILITY:
        repeated = [
            i for i, thing in enumerate(scene.things) if len(scene.things_of_kind(thing.kind)) > 1
        ]
        index = repeated[int(random.integers(len(repeated)))] if repeated else index
    expressions = referring_expressions(scene, index)
    if not expressions:
        return band_place_turn(scene, int(random.integers(len(scene.bands))))
    return thing_place_turn(scene, index, expressions[int(random.integers(len(expressions)))])


def _sample_turns(drawing: Drawing, random: np.random.Generator) -> tuple[Turn, ...]:
    """Sample a caption or list, and some shorter texts; all have phrases."""
    description = caption_turn(drawing.scene) if random.random() < 0.7 else list_turn(drawing.scene)
    answer = ask_random_question(drawing.scene, random)
    expressions = [
        expression_turn(choose_absent_expression(drawing.scene, random))
        if random.random() < _ABSENT_PROBABILITY
        else sample_expression_turn(drawing, random)
        for _ in range(_EXPRESSIONS)
    ]
    number = ask_tag_number(drawing.scene, random) if random.random() < 0.5 else None
    return tuple(
        turn for turn in (description, answer, *expressions, number) if turn and turn.mentions
    )


def _trace_batch(
    adapter: LMMAdapter,
    head: GroundingHead,
    drawings: Sequence[Drawing],
    random: np.random.Generator,
) -> HeadBatch:
    """Run the frozen LMM on texts about some pictures; return the head's inputs and targets."""
    turns = [_sample_turns(drawing, random) for drawing in drawings]
    prompts = [
        prompt
        for drawing, texts in zip(drawings, turns, strict=True)
        for prompt in adapter.build_prompts(
            Image.fromarray(drawing.picture), [(turn.question, turn.answer) for turn in texts]
        )
    ]
    with torch.no_grad():
        traces = trace_texts(adapter, prompts)
    indexed_turns = ((index, turn) for index, texts in enumerate(turns) for turn in texts)
    attention, hidden, picture_indices, targets = [], [], [], []
    answers, groundable = [], []
    for (index, turn), prompt, trace in zip(indexed_turns, prompts, traces, strict=True):
        offsets = prompt.answer_offsets
        assert offsets is not None
        labels = torch.zeros(len(trace.token_ids))
        for mention in turn.mentions:
            span = make_phrase_span(turn.answer, mention.start, mention.end, offsets)
            tokens = list(span.tokens)
            labels[tokens] = 1
            attention.append(trace.picture_attention.phrase_maps(span.tokens))
            hidden.append(trace.hidden_states[:, tokens])
            picture_indices.append(index)
            targets.append(torch.from_numpy(mention_mask(drawings[index], mention)))
        # The keyword selector runs on generated text, where absent expressions do not occur.
        if any(mention.things or mention.bands for mention in turn.mentions):
            answers.append(trace.hidden_states)
            groundable.append(labels)
    return HeadBatch(
        torch.stack([head.refiner.segmenter.preprocess(drawing.picture) for drawing in drawings]),
        torch.stack(attention),
        tuple(hidden),
        torch.tensor(picture_indices),
        torch.stack(targets),
        traces[0].geometry,
        torch.cat(answers, dim=1),
        torch.cat(groundable),
    )


def head_loss(head: GroundingHead, batch: HeadBatch, embeddings: PictureEmbeddings) -> Tensor:
    """Return BCE + Dice of decoder and refiner (paper section 3.4) plus the selector's BCE."""
    output = head(
        batch.attention,
        batch.hidden_states,
        batch.geometry,
        embeddings,
        batch.picture_indices,
        resolution="low",
    )
    true_masks = batch.targets.float()[:, None]

    def target(logits: Tensor) -> Tensor:
        return functional.interpolate(true_masks, logits.shape[-2:], mode="area")[:, 0]

    keyword_logits = head.keyword_logits(batch.answer_hidden_states)
    return (
        mask_loss(output.mask_logits, target(output.mask_logits))
        + mask_loss(output.refined_logits, target(output.refined_logits))
        + functional.binary_cross_entropy_with_logits(keyword_logits, batch.groundable)
    )


def build_head(adapter: LMMAdapter, segmenter: Segmenter) -> GroundingHead:
    """Build the untrained head for the embedded LMM."""
    config = HeadConfig(
        layers=adapter.layers, heads=adapter.heads, hidden_size=adapter.hidden_size,
        base_channels=32, selector=True, selector_width=64,
        segment_prompt=SEGMENT_QUESTION.format(phrase="the {phrase}"),
        base_model_name_or_path=LMM_NAME, base_model_type=adapter.model_type,
        refiner_name_or_path=SAM_NAME,
    )  # fmt: skip
    return GroundingHead(config, segmenter)


class _TrainableParts(nn.Module):
    """The head's trainable parts, to keep the frozen vision encoder out of checkpoints."""

    def __init__(self, head: GroundingHead) -> None:
        super().__init__()
        self.mask_decoder = head.mask_decoder
        self.prompt_encoder = head.refiner.sam.prompt_encoder
        self.sam_mask_decoder = head.refiner.sam.mask_decoder
        self.text_projection = head.text_projection
        self.layer_weights = head.layer_weights
        self.selector = head.selector


def train(
    adapter: LMMAdapter, head: GroundingHead, dataset: SceneDataset, folder: Path, steps: int,
    on_progress: ProgressCallback = no_progress,
) -> None:  # fmt: skip
    """Train the head in place; the LMM and SAM's vision encoder stay frozen."""
    head.to(DEVICE)

    def batches(step: int) -> list[HeadBatch]:
        random = np.random.default_rng((5, step))
        drawings = [
            dataset.drawing(int(i))
            for i in random.integers(dataset.count, size=2 * _MICRO_BATCH_SIZE)
        ]
        halves = drawings[:_MICRO_BATCH_SIZE], drawings[_MICRO_BATCH_SIZE:]
        return [_trace_batch(adapter, head, half, random) for half in halves]

    def loss(batch: HeadBatch) -> Tensor:
        with torch.no_grad():
            embeddings = head.refiner.segmenter.encode_pixels(batch.pixel_values)
        return head_loss(head, batch, embeddings)

    train_stage(
        TrainingStage("head", _TrainableParts(head), steps, batches, loss, 1e-3),
        folder,
        on_progress,
    )
