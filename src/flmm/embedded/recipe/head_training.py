"""The embedded head: trained on the frozen LMM's traces of captions, answers and expressions.

Some expressions mean nothing in the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import SamModel

from flmm.attention.spans import make_phrase_span
from flmm.attention.tracing import trace_texts
from flmm.embedded.protocols import expression_turn
from flmm.embedded.recipe.hardware import BATCH_SIZE_FACTOR, DEVICE
from flmm.embedded.recipe.training_loop import TensorDataclass, TrainingStage, train_stage
from flmm.head.model import GroundingHead, HeadConfig
from flmm.lmm.base import LMMAdapter
from flmm.progress import ProgressCallback, no_progress
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
    """What the head sees of a few pictures' phrases, and what it should say."""

    pixel_values: Tensor
    """(B, 3, S, S): the pictures as SAM's vision encoder reads them."""
    attention: Tensor
    """(P, M*N, h, w)"""
    hidden_states: tuple[Tensor, ...]
    """P tensors (M, T, D)"""
    picture_indices: Tensor
    targets: Tensor
    """(P, H, W) bool."""
    geometry: ImageGeometry
    answer_hidden_states: Tensor
    """(M, T, D): the hidden states of all answers' tokens."""
    groundable: Tensor
    """(T,) float: which of them belong to a phrase."""


def sample_expression_turn(drawing: Drawing, random: np.random.Generator) -> Turn:
    """Where a thing or some stuff is; the answer begins with a referring expression.

    Half of the things are asked for among others of their kind, where there are any.
    """
    scene = drawing.scene
    if random.random() < 0.2:
        return band_place_turn(scene, int(random.integers(len(scene.bands))))
    index = int(random.integers(len(scene.things)))
    if random.random() < _SAME_KIND_PROBABILITY:
        several = [
            i for i, one in enumerate(scene.things) if len(scene.things_of_kind(one.kind)) > 1
        ]
        index = several[int(random.integers(len(several)))] if several else index
    expressions = referring_expressions(scene, index)
    if not expressions:
        return band_place_turn(scene, int(random.integers(len(scene.bands))))
    return thing_place_turn(scene, index, expressions[int(random.integers(len(expressions)))])


def _sample_turns(drawing: Drawing, random: np.random.Generator) -> tuple[Turn, ...]:
    """A caption or list, and some shorter texts."""
    told = caption_turn(drawing.scene) if random.random() < 0.7 else list_turn(drawing.scene)
    asked = ask_random_question(drawing.scene, random)
    referred = [
        expression_turn(choose_absent_expression(drawing.scene, random))
        if random.random() < _ABSENT_PROBABILITY
        else sample_expression_turn(drawing, random)
        for _ in range(_EXPRESSIONS)
    ]
    number = ask_tag_number(drawing.scene, random) if random.random() < 0.5 else None
    return tuple(turn for turn in (told, asked, *referred, number) if turn and turn.mentions)


def _trace_batch(
    adapter: LMMAdapter,
    head: GroundingHead,
    drawings: Sequence[Drawing],
    random: np.random.Generator,
) -> HeadBatch:
    """Run the frozen LMM over texts about some pictures and gather what the head needs."""
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
    asked = ((index, turn) for index, texts in enumerate(turns) for turn in texts)
    attention, hidden, owners, targets = [], [], [], []
    answers, groundable = [], []
    for (index, turn), prompt, trace in zip(asked, prompts, traces, strict=True):
        offsets = prompt.answer_offsets
        assert offsets is not None
        labels = torch.zeros(len(trace.token_ids))
        for mention in turn.mentions:
            span = make_phrase_span(turn.answer, mention.start, mention.end, offsets)
            tokens = list(span.tokens)
            labels[tokens] = 1
            attention.append(trace.picture_attention.phrase_maps(span.tokens))
            hidden.append(trace.hidden_states[:, tokens])
            owners.append(index)
            targets.append(torch.from_numpy(mention_mask(drawings[index], mention)))
        # Whether a word can be grounded is asked of what the LMM says; it would not say this.
        if any(mention.things or mention.bands for mention in turn.mentions):
            answers.append(trace.hidden_states)
            groundable.append(labels)
    return HeadBatch(
        torch.stack([head.refiner.preprocess(drawing.picture) for drawing in drawings]),
        torch.stack(attention),
        tuple(hidden),
        torch.tensor(owners),
        torch.stack(targets),
        traces[0].geometry,
        torch.cat(answers, dim=1),
        torch.cat(groundable),
    )


def head_loss(head: GroundingHead, batch: HeadBatch, embeddings: Tensor) -> Tensor:
    """BCE + Dice of decoder and refiner (paper section 3.4), and the keyword selector's BCE."""
    output = head(
        batch.attention,
        batch.hidden_states,
        batch.geometry,
        embeddings,
        batch.picture_indices,
        resolution="low",
    )
    truth = batch.targets.float()[:, None]

    def target(logits: Tensor) -> Tensor:
        return functional.interpolate(truth, logits.shape[-2:], mode="area")[:, 0]

    keyword = head.keyword_logits(batch.answer_hidden_states)
    return (
        mask_loss(output.mask_logits, target(output.mask_logits))
        + mask_loss(output.refined_logits, target(output.refined_logits))
        + functional.binary_cross_entropy_with_logits(keyword, batch.groundable)
    )


def build_head(adapter: LMMAdapter, sam: SamModel) -> GroundingHead:
    """The untrained head for the embedded LMM."""
    config = HeadConfig(
        layers=adapter.layers, heads=adapter.heads, hidden_size=adapter.hidden_size,
        base_channels=32, selector=True, selector_width=64,
        segment_prompt=SEGMENT_QUESTION.format(phrase="the {phrase}"),
        base_model_name_or_path=LMM_NAME, refiner_name_or_path=SAM_NAME,
    )  # fmt: skip
    return GroundingHead(config, sam)


class _TrainableParts(nn.Module):
    """The head's trainable parts, so that checkpoints leave the frozen vision encoder out."""

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
    """Train the head in place; the LMM and SAM's vision encoder stay as they are."""
    head.to(DEVICE)

    def batches(step: int) -> list[HeadBatch]:
        random = np.random.default_rng((5, step))
        drawings = [
            dataset.drawing(int(i))
            for i in random.integers(dataset.count, size=2 * _MICRO_BATCH_SIZE)
        ]
        parts = drawings[:_MICRO_BATCH_SIZE], drawings[_MICRO_BATCH_SIZE:]
        return [_trace_batch(adapter, head, part, random) for part in parts]

    def loss(batch: HeadBatch) -> Tensor:
        with torch.no_grad():
            embeddings = head.refiner.sam.get_image_embeddings(batch.pixel_values)
        return head_loss(head, batch, embeddings)

    train_stage(
        TrainingStage("head", _TrainableParts(head), steps, batches, loss, 1e-3),
        folder,
        on_progress,
    )
