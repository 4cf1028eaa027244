"""Warm-up of the vision tower: classify the kinds, stuff and numbers in a picture.

First it is trained on crops around one thing, which cost a sixteenth of a whole picture and have
nearly as clear labels; then on whole pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

from flmm.embedded_model.recipe.cpu_attention import use_cpu_attention
from flmm.embedded_model.recipe.curriculum import Curriculum
from flmm.embedded_model.recipe.hardware import BATCH_SIZE_FACTOR
from flmm.embedded_model.recipe.lmm_architecture import (
    SMALL_IMAGE_SIZE,
    compute_patch_features,
    preprocess_pictures,
)
from flmm.embedded_model.recipe.training_loop import TrainingStage, train_stage
from flmm.progress import ProgressCallback, no_progress
from flmm.stickers.dataset import SceneDataset
from flmm.stickers.draw import TAG_SIDE, Drawing
from flmm.stickers.kinds import KINDS, STUFF
from flmm.stickers.scene import MAX_THINGS, Scene

LABELS = (*(kind.name for kind in KINDS), *STUFF, *(str(number) for number in range(1, 10)))
_NUMBER_LABELS = slice(len(LABELS) - 9, len(LABELS))
_LABEL_INDEX = {name: index for index, name in enumerate(LABELS)}
CROP_SIZE = 64
_MICRO_BATCH_SIZE = 24 * BATCH_SIZE_FACTOR
_WHOLE_PICTURES_FROM = 0.7


class LabelClassifier(nn.Module):
    """The vision tower with a linear classifier of patches, pooled over the 4 highest logits."""

    def __init__(self, lmm: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.lmm = (lmm,)  # in a tuple, so that its other parts are not part of this module
        self.vision_tower = lmm.model.vision_tower
        self.classifier = nn.Linear(self.vision_tower.config.hidden_size, len(LABELS))
        nn.init.constant_(self.classifier.bias, -3.0)

    def patch_features(self, pixel_values: Tensor) -> Tensor:
        """Return the projector's input: (B, 3, S, S) → (B, h·w, width)."""
        return compute_patch_features(self.lmm[0], pixel_values)

    def loss(self, patch_features: Tensor, labels: Tensor) -> Tensor:
        """Return 10 times the BCE of the pooled logits; labels are (B, labels).

        A label is 1 if present, 0 if absent, -1 if left out of the loss.
        """
        logits = self.classifier(patch_features).float().topk(4, dim=1).values.mean(1)
        losses = functional.binary_cross_entropy_with_logits(
            logits, labels.clamp(min=0), reduction="none"
        )
        known = labels >= 0
        return 10 * (losses * known).sum() / known.sum()


def scene_labels(scenes: Sequence[Scene]) -> Tensor:
    """Return the labels of scenes, (B, labels); numbers are -1, being too small to read."""
    labels = torch.zeros(len(scenes), len(LABELS))
    labels[:, _NUMBER_LABELS] = -1
    for row, scene in enumerate(scenes):
        for name in (*(kind.name for kind in scene.kinds), *(band.name for band in scene.bands)):
            labels[row, _LABEL_INDEX[name]] = 1
    return labels


def crop_number(drawing: Drawing, random: np.random.Generator) -> tuple[NDArray[np.uint8], Tensor]:
    """Return a crop around the tag of one of a picture's things, and the crop's labels.

    The digit is one to four times as large as in a closer look: large digits are learned first, and
    without them small ones were never learned.
    """
    scene = drawing.scene
    tagged = [index for index, thing in enumerate(scene.things) if thing.tag_number is not None]
    index = tagged[int(random.integers(len(tagged)))]
    thing = scene.things[index]
    side = float(np.exp(random.uniform(np.log(0.06), np.log(0.25))))
    max_offset = max(side / 2 - TAG_SIDE, 0)
    centre = np.array([thing.x, thing.y]) + random.uniform(-max_offset, max_offset, 2)
    size = drawing.picture.shape[0]
    pixels = round(side * size)
    left, top = np.clip(np.round(centre * size - pixels / 2).astype(int), 0, size - pixels)
    crop = drawing.picture[top : top + pixels, left : left + pixels]
    return crop, closer_look_labels(scene, index)


def closer_look_labels(scene: Scene, index: int) -> Tensor:
    """Return the labels, (labels,), of a closer look at a thing: only numbers are not -1."""
    labels = torch.full((len(LABELS),), -1.0)
    labels[_NUMBER_LABELS] = 0
    # Tags of other things may lie in the crop or not.
    for thing in scene.things:
        if thing.tag_number is not None:
            labels[_LABEL_INDEX[str(thing.tag_number)]] = -1
    number = scene.things[index].tag_number
    if number is not None:
        labels[_LABEL_INDEX[str(number)]] = 1
    return labels


@dataclass(frozen=True)
class _CropWindow:
    """A square crop of a picture, in fractions of its side."""

    left: float
    top: float
    side: float

    def contains(self, x: float, y: float) -> bool:
        return 0 < x - self.left < self.side and 0 < y - self.top < self.side

    def overlaps(self, x: float, y: float, margin: float) -> bool:
        return (
            self.left - margin < x < self.left + self.side + margin
            and self.top - margin < y < self.top + self.side + margin
        )


def crop_around_thing(drawing: Drawing, random: np.random.Generator) -> tuple[Drawing, Tensor]:
    """Return a crop around one of a picture's things, as a drawing, and its labels.

    Two thirds have the scale of whole pictures in the LMM; the others that of a closer look, large
    enough to read numbers.
    """
    scene = drawing.scene
    thing = scene.things[int(random.integers(len(scene.things)))]
    is_close = random.random() < 0.33
    side = thing.size * random.uniform(0.6, 1.1) if is_close else random.uniform(0.4, 0.6)
    max_offset = max(side * 0.3, 0.02)
    centre = np.array([thing.x, thing.y]) + random.uniform(-max_offset, max_offset, 2)
    left, top = np.clip(centre - side / 2, 0, 1 - side)
    window = _CropWindow(float(left), float(top), float(side))
    size = drawing.picture.shape[0]
    rows = slice(round(window.top * size), round((window.top + window.side) * size))
    columns = slice(round(window.left * size), round((window.left + window.side) * size))
    region_ids = drawing.region_ids[rows, columns]

    labels = torch.zeros(len(LABELS))
    labels[_NUMBER_LABELS] = 0 if is_close else -1
    for other in scene.things:
        index = _LABEL_INDEX[other.kind.name]
        if window.contains(other.x, other.y):
            labels[index] = 1
        elif window.overlaps(other.x, other.y, other.size / 2) and labels[index] == 0:
            labels[index] = -1
        if is_close and other.tag_number is not None and window.overlaps(other.x, other.y, 0.03):
            inside = window.overlaps(other.x, other.y, -0.02)
            labels[_LABEL_INDEX[str(other.tag_number)]] = 1 if inside else -1
    for index, band in enumerate(scene.bands):
        share = (region_ids == index).mean()
        labels[_LABEL_INDEX[band.name]] = 1 if share > 0.06 else -1 if share else 0
    return Drawing(drawing.picture[rows, columns], region_ids, scene), labels


def warm_up(
    classifier: LabelClassifier,
    dataset: SceneDataset,
    folder: Path,
    steps: int,
    on_progress: ProgressCallback = no_progress,
) -> None:
    """Train the vision tower to classify kinds of thing and stuff, and numbers."""
    curriculum = Curriculum(dataset, 1, steps, ((1.0, MAX_THINGS),))
    use_cpu_attention(classifier.vision_tower)

    def batches(step: int) -> list[tuple[Tensor, Tensor]]:
        use_whole_pictures = step >= _WHOLE_PICTURES_FROM * steps
        count = _MICRO_BATCH_SIZE if use_whole_pictures else 4 * _MICRO_BATCH_SIZE
        indices, random = curriculum.sample(step, count)
        if use_whole_pictures:
            pixels = preprocess_pictures([dataset.picture(i) for i in indices], SMALL_IMAGE_SIZE)
            labels = scene_labels([dataset.scene(i) for i in indices])
        else:
            crops = [crop_around_thing(dataset.drawing(i), random) for i in indices]
            pixels = preprocess_pictures([crop.picture for crop, _ in crops], CROP_SIZE)
            labels = torch.stack([crop_labels for _, crop_labels in crops])
        return list(zip(torch.chunk(pixels, 2), torch.chunk(labels, 2), strict=True))

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        pixels, labels = batch
        return classifier.loss(classifier.patch_features(pixels), labels)

    train_stage(TrainingStage("lmm-warm-up", classifier, steps, batches, loss), folder, on_progress)
