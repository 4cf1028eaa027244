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

from flmm.attention.spans import span_at
from flmm.attention.tracing import trace_texts
from flmm.embedded.protocols import alone
from flmm.embedded.recipe.hardware import DEVICE, TIMES_AS_MANY
from flmm.embedded.recipe.training_loop import Fit, Movable, run
from flmm.head.model import GroundingHead, HeadConfig
from flmm.lmm.base import LMMAdapter
from flmm.progress import Watch, unwatched
from flmm.stickers.dataset import World
from flmm.stickers.draw import Drawing, mention_mask
from flmm.stickers.language import (
    SEGMENT_QUESTION,
    Turn,
    caption,
    listing,
    referring_expressions,
    where_band,
    where_thing,
)
from flmm.stickers.questions import absent_expression, ask, ask_number
from flmm.train.losses import mask_loss
from flmm.types import ImageGeometry

LMM_NAME = "embedded:lmm"
SAM_NAME = "sam"
_MICRO = 2 * TIMES_AS_MANY
_EXPRESSIONS = 5
_ABSENT = 0.2
_AMONG_SAME = 0.5


@dataclass(frozen=True)
class TracedPhrases(Movable):
    """What the head sees of a few pictures' phrases, and what it should say."""

    pixels: Tensor
    """(B, 3, S, S): the pictures as SAM's vision encoder reads them."""
    attention: Tensor
    """(P, M*N, h, w)"""
    hidden_states: tuple[Tensor, ...]
    """P tensors (M, T, D)"""
    picture_of_phrase: Tensor
    targets: Tensor
    """(P, H, W) bool."""
    geometry: ImageGeometry
    answers: Tensor
    """(M, T, D): the hidden states of all answers' tokens."""
    groundable: Tensor
    """(T,) float: which of them belong to a phrase."""


def refer(drawing: Drawing, random: np.random.Generator) -> Turn:
    """Where a thing or some stuff is; the answer begins with a referring expression.

    Half of the things are asked for among others of their kind, where there are any.
    """
    scene = drawing.scene
    if random.random() < 0.2:
        return where_band(scene, int(random.integers(len(scene.bands))))
    index = int(random.integers(len(scene.things)))
    if random.random() < _AMONG_SAME:
        several = [i for i, one in enumerate(scene.things) if len(scene.of_kind(one.kind)) > 1]
        index = several[int(random.integers(len(several)))] if several else index
    expressions = referring_expressions(scene, index)
    if not expressions:
        return where_band(scene, int(random.integers(len(scene.bands))))
    return where_thing(scene, index, expressions[int(random.integers(len(expressions)))])


def _turns(drawing: Drawing, random: np.random.Generator) -> tuple[Turn, ...]:
    """A caption or list, and some shorter texts."""
    told = caption(drawing.scene) if random.random() < 0.7 else listing(drawing.scene)
    asked = ask(drawing.scene, random)
    referred = [
        alone(absent_expression(drawing.scene, random))
        if random.random() < _ABSENT
        else refer(drawing, random)
        for _ in range(_EXPRESSIONS)
    ]
    number = ask_number(drawing.scene, random) if random.random() < 0.5 else None
    return tuple(turn for turn in (told, asked, *referred, number) if turn and turn.mentions)


def _traced(
    adapter: LMMAdapter,
    head: GroundingHead,
    drawings: Sequence[Drawing],
    random: np.random.Generator,
) -> TracedPhrases:
    """Run the frozen LMM over texts about some pictures and gather what the head needs."""
    turns = [_turns(drawing, random) for drawing in drawings]
    prompts = [
        prompt
        for drawing, texts in zip(drawings, turns, strict=True)
        for prompt in adapter.prepare_each(
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
            span = span_at(turn.answer, mention.start, mention.end, offsets)
            tokens = list(span.tokens)
            labels[tokens] = 1
            attention.append(trace.picture.of_phrase(span.tokens))
            hidden.append(trace.hidden_states[:, tokens])
            owners.append(index)
            targets.append(torch.from_numpy(mention_mask(drawings[index], mention)))
        # Whether a word can be grounded is asked of what the LMM says; it would not say this.
        if any(mention.things or mention.bands for mention in turn.mentions):
            answers.append(trace.hidden_states)
            groundable.append(labels)
    return TracedPhrases(
        torch.stack([head.refiner.preprocess(drawing.picture) for drawing in drawings]),
        torch.stack(attention),
        tuple(hidden),
        torch.tensor(owners),
        torch.stack(targets),
        traces[0].geometry,
        torch.cat(answers, dim=1),
        torch.cat(groundable),
    )


def head_loss(head: GroundingHead, batch: TracedPhrases, embeddings: Tensor) -> Tensor:
    """BCE + Dice of decoder and refiner (paper section 3.4), and the keyword selector's BCE."""
    output = head(
        batch.attention,
        batch.hidden_states,
        batch.geometry,
        embeddings,
        batch.picture_of_phrase,
        resolution="low",
    )
    truth = batch.targets.float()[:, None]

    def target(logits: Tensor) -> Tensor:
        return functional.interpolate(truth, logits.shape[-2:], mode="area")[:, 0]

    keyword = head.keyword_logits(batch.answers)
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


class _Trained(nn.Module):
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
    adapter: LMMAdapter, head: GroundingHead, world: World, folder: Path, steps: int,
    watch: Watch = unwatched,
) -> None:  # fmt: skip
    """Train the head in place; the LMM and SAM's vision encoder stay as they are."""
    head.to(DEVICE)

    def batches(step: int) -> list[TracedPhrases]:
        random = np.random.default_rng((5, step))
        drawings = [world.drawing(int(i)) for i in random.integers(world.count, size=2 * _MICRO)]
        parts = drawings[:_MICRO], drawings[_MICRO:]
        return [_traced(adapter, head, part, random) for part in parts]

    def loss(batch: TracedPhrases) -> Tensor:
        with torch.no_grad():
            embeddings = head.refiner.sam.get_image_embeddings(batch.pixels)
        return head_loss(head, batch, embeddings)

    run(Fit("head", _Trained(head), steps, batches, loss, 1e-3), folder, watch)
