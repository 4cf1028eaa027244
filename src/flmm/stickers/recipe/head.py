"""The embedded head: trained on the frozen LMM's traces of captions, lists and answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import SamModel

from flmm.attention.recorder import trace_texts
from flmm.attention.spans import span_at
from flmm.attention.trace import Trace
from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Prompt
from flmm.losses import mask_loss
from flmm.model import GroundingHead, HeadConfig
from flmm.stickers.draw import Drawing, mention_mask
from flmm.stickers.language import (
    SEGMENT_QUESTION,
    Mention,
    Turn,
    caption,
    listing,
    referring_expressions,
    where_band,
    where_thing,
)
from flmm.stickers.questions import ask
from flmm.stickers.recipe.fit import Fit, run
from flmm.stickers.world import World
from flmm.types import ImageGeometry

LMM_NAME = "embedded:lmm"
SAM_NAME = "sam"
_MICRO = 3


@dataclass(frozen=True)
class TracedPhrases:
    """What the head sees of a few pictures' phrases, and what it should say."""

    attention: Tensor
    """(P, M*N, h, w)"""
    hidden_states: tuple[Tensor, ...]
    """P tensors (M, T, D)"""
    picture_of_phrase: Tensor
    targets: Tensor
    """(P, H, W) bool."""
    geometry: ImageGeometry
    answers: tuple[Tensor, ...]
    """For each answer the hidden states of all its tokens, (M, T, D)."""
    groundable: tuple[Tensor, ...]
    """For each answer which tokens belong to a phrase, (T,) float."""


@dataclass(frozen=True)
class Example:
    """A picture, a text about it ready for the LMM, and its phrases' masks."""

    drawing: Drawing
    turn: Turn
    prompt: Prompt


def refer(drawing: Drawing, random: np.random.Generator) -> Turn:
    """A referring expression as `Grounder.segment` puts it, now and then without its article."""
    scene = drawing.scene
    index = int(random.integers(len(scene.things)))
    expressions = referring_expressions(scene, index)
    if not expressions or random.random() < 0.2:
        return where_band(scene, int(random.integers(len(scene.bands))))
    turn = where_thing(scene, index, expressions[int(random.integers(len(expressions)))])
    if random.random() < 0.85:
        return turn
    bare = turn.answer[turn.mentions[0].start : turn.mentions[0].end].removeprefix("The ")
    answer = bare[0].upper() + bare[1:]
    mention = Mention(0, len(answer), turn.mentions[0].things)
    return Turn("where", SEGMENT_QUESTION.format(phrase=bare), answer, (mention,))


def _turn(drawing: Drawing, random: np.random.Generator) -> Turn:
    chance = random.random()
    if chance < 0.35:
        return caption(drawing.scene)
    if chance < 0.45:
        return listing(drawing.scene)
    return refer(drawing, random) if chance < 0.85 else ask(drawing.scene, random)


def traced(adapter: LMMAdapter, examples: Sequence[Example]) -> TracedPhrases:
    """Run the frozen LMM over the texts and gather what the head needs."""
    traces: list[Trace] = trace_texts(adapter, [example.prompt for example in examples])
    attention, hidden, owners, targets, groundable = [], [], [], [], []
    for index, (example, trace) in enumerate(zip(examples, traces, strict=True)):
        offsets = example.prompt.answer_offsets
        assert offsets is not None
        labels = torch.zeros(len(trace.token_ids))
        for mention in example.turn.mentions:
            span = span_at(example.turn.answer, mention.start, mention.end, offsets)
            tokens = list(span.tokens)
            labels[tokens] = 1
            attention.append(trace.picture.of_phrase(span.tokens))
            hidden.append(trace.hidden_states[:, tokens])
            owners.append(index)
            targets.append(torch.from_numpy(mention_mask(example.drawing, mention)))
        groundable.append(labels)
    return TracedPhrases(
        torch.stack(attention),
        tuple(hidden),
        torch.tensor(owners),
        torch.stack(targets),
        traces[0].geometry,
        tuple(trace.hidden_states for trace in traces),
        tuple(groundable),
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

    keyword = torch.cat([head.keyword_logits(hidden) for hidden in batch.answers])
    return (
        mask_loss(output.mask_logits, target(output.mask_logits))
        + mask_loss(output.refined_logits, target(output.refined_logits))
        + functional.binary_cross_entropy_with_logits(keyword, torch.cat(batch.groundable))
    )


def build_head(adapter: LMMAdapter, sam: SamModel) -> GroundingHead:
    """The untrained head for the embedded LMM."""
    config = HeadConfig(
        layers=adapter.layers, heads=adapter.heads, hidden_size=adapter.hidden_size,
        base_channels=16, selector=True, selector_width=64,
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


def train(adapter: LMMAdapter, head: GroundingHead, world: World, folder: Path, steps: int) -> None:
    """Train the head in place; the LMM and SAM's vision encoder stay as they are."""

    def batches(step: int) -> list[list[Example]]:
        random = np.random.default_rng((5, step))
        examples = []
        for index in random.integers(world.count, size=2 * _MICRO):
            drawing = world.drawing(int(index))
            turn = _turn(drawing, random)
            while not turn.mentions:
                turn = _turn(drawing, random)
            prompt = adapter.prepare(Image.fromarray(drawing.picture), turn.question, turn.answer)
            examples.append(Example(drawing, turn, prompt))
        return [examples[:_MICRO], examples[_MICRO:]]

    def loss(examples: list[Example]) -> Tensor:
        with torch.no_grad():
            batch = traced(adapter, examples)
            embeddings = head.refiner.encode(*(example.drawing.picture for example in examples))
        return head_loss(head, batch, embeddings)

    run(Fit("head", _Trained(head), steps, batches, loss, 1e-3), folder)
