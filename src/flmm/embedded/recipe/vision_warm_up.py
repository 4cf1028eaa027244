"""The vision tower's first lessons: which kinds, stuff and numbers are in a picture (labels only).

Most of it are small pictures around one thing, a sixteenth of a whole picture's cost with a label
that is nearly as clear; then come whole pictures.
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

from flmm.embedded.recipe.cpu_attention import learn_with_it
from flmm.embedded.recipe.curriculum import Curriculum
from flmm.embedded.recipe.hardware import TIMES_AS_MANY
from flmm.embedded.recipe.lmm_architecture import SMALL_PIXELS, image_states, pixel_values
from flmm.embedded.recipe.training_loop import Fit, run
from flmm.progress import Watch, unwatched
from flmm.stickers.dataset import World
from flmm.stickers.draw import TAG_SIDE, Drawing
from flmm.stickers.kinds import KINDS, STUFF
from flmm.stickers.scene import MOST_THINGS, Scene

LABELS = (*(kind.name for kind in KINDS), *STUFF, *(str(number) for number in range(1, 10)))
_NUMBERS = slice(len(LABELS) - 9, len(LABELS))
_INDEX = {name: index for index, name in enumerate(LABELS)}
CROP_PIXELS = 64
_MICRO = 24 * TIMES_AS_MANY
_WHOLE_FROM = 0.7


class KindClassifier(nn.Module):
    """The vision tower with a linear classifier on every patch, pooled over the best few."""

    def __init__(self, lmm: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.lmm = (lmm,)  # in a tuple: its other parts are no part of this module
        self.vision_tower = lmm.model.vision_tower
        self.classifier = nn.Linear(self.vision_tower.config.hidden_size, len(LABELS))
        nn.init.constant_(self.classifier.bias, -3.0)

    def patches(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, h·w, width): the patches' states, as the projector sees them."""
        return image_states(self.lmm[0], pixels)

    def loss(self, patches: Tensor, labels: Tensor) -> Tensor:
        """BCE of the pooled logits against (B, labels): 1 there, 0 not there, -1 not asked."""
        logits = self.classifier(patches).float().topk(4, dim=1).values.mean(1)
        every = functional.binary_cross_entropy_with_logits(
            logits, labels.clamp(min=0), reduction="none"
        )
        asked = labels >= 0
        return 10 * (every * asked).sum() / asked.sum()


def labels_of(scenes: Sequence[Scene]) -> Tensor:
    """(B, labels): the kinds of thing and stuff of scenes; numbers are too small to be asked."""
    target = torch.zeros(len(scenes), len(LABELS))
    target[:, _NUMBERS] = -1
    for row, scene in enumerate(scenes):
        for name in (*(k.name for k in scene.kinds), *(b.name for b in scene.bands)):
            target[row, _INDEX[name]] = 1
    return target


def number_crop(drawing: Drawing, random: np.random.Generator) -> tuple[NDArray[np.uint8], Tensor]:
    """A part of a picture around the tag of one of its things, and the part's labels.

    The digit is as large as in a closer look, or up to four times as large: large ones are learned
    first, and without them small ones never were.
    """
    scene = drawing.scene
    numbered = [index for index, thing in enumerate(scene.things) if thing.number is not None]
    index = numbered[int(random.integers(len(numbered)))]
    thing = scene.things[index]
    side = float(np.exp(random.uniform(np.log(0.06), np.log(0.25))))
    reach = max(side / 2 - TAG_SIDE, 0)
    centre = np.array([thing.x, thing.y]) + random.uniform(-reach, reach, 2)
    size = drawing.picture.shape[0]
    pixels = round(side * size)
    left, top = np.clip(np.round(centre * size - pixels / 2).astype(int), 0, size - pixels)
    crop = drawing.picture[top : top + pixels, left : left + pixels]
    return crop, labels_of_look(scene, index)


def labels_of_look(scene: Scene, index: int) -> Tensor:
    """(labels,) of a closer look at one of a scene's things: only the number is asked."""
    labels = torch.full((len(LABELS),), -1.0)
    labels[_NUMBERS] = 0
    # Tags of other things may be seen, or not.
    for thing in scene.things:
        if thing.number is not None:
            labels[_INDEX[str(thing.number)]] = -1
    number = scene.things[index].number
    if number is not None:
        labels[_INDEX[str(number)]] = 1
    return labels


@dataclass(frozen=True)
class _Window:
    """A square part of a picture, in fractions of its side."""

    left: float
    top: float
    side: float

    def holds(self, x: float, y: float) -> bool:
        return 0 < x - self.left < self.side and 0 < y - self.top < self.side

    def meets(self, x: float, y: float, reach: float) -> bool:
        return (
            self.left - reach < x < self.left + self.side + reach
            and self.top - reach < y < self.top + self.side + reach
        )


def crop_around(drawing: Drawing, random: np.random.Generator) -> tuple[Drawing, Tensor]:
    """A part of a picture around one of its things, and the part's labels.

    Two thirds have the scale at which the LMM sees whole pictures; the others are as near as a
    closer look comes, near enough to read numbers.
    """
    scene = drawing.scene
    thing = scene.things[int(random.integers(len(scene.things)))]
    near = random.random() < 0.33
    side = thing.size * random.uniform(0.6, 1.1) if near else random.uniform(0.4, 0.6)
    reach = max(side * 0.3, 0.02)
    centre = np.array([thing.x, thing.y]) + random.uniform(-reach, reach, 2)
    left, top = np.clip(centre - side / 2, 0, 1 - side)
    window = _Window(float(left), float(top), float(side))
    size = drawing.picture.shape[0]
    rows = slice(round(window.top * size), round((window.top + window.side) * size))
    columns = slice(round(window.left * size), round((window.left + window.side) * size))
    owner = drawing.owner[rows, columns]

    labels = torch.zeros(len(LABELS))
    labels[_NUMBERS] = 0 if near else -1
    for other in scene.things:
        index = _INDEX[other.kind.name]
        if window.holds(other.x, other.y):
            labels[index] = 1
        elif window.meets(other.x, other.y, other.size / 2) and labels[index] == 0:
            labels[index] = -1
        if near and other.number is not None and window.meets(other.x, other.y, 0.03):
            inside = window.meets(other.x, other.y, -0.02)
            labels[_INDEX[str(other.number)]] = 1 if inside else -1
    for number, band in enumerate(scene.bands):
        share = (owner == number).mean()
        labels[_INDEX[band.name]] = 1 if share > 0.06 else -1 if share else 0
    return Drawing(drawing.picture[rows, columns], owner, scene), labels


def warm_up(
    classifier: KindClassifier, world: World, folder: Path, steps: int, watch: Watch = unwatched
) -> None:
    """Teach the vision tower which kinds of thing and stuff, and which numbers, it sees."""
    plan = Curriculum(world, 1, steps, ((1.0, MOST_THINGS),))
    learn_with_it(classifier.vision_tower)

    def batches(step: int) -> list[tuple[Tensor, Tensor]]:
        whole = step >= _WHOLE_FROM * steps
        count = _MICRO if whole else 4 * _MICRO
        indices, random = plan.draw(step, count)
        if whole:
            pixels = pixel_values([world.picture(i) for i in indices], SMALL_PIXELS)
            labels = labels_of([world.scene(i) for i in indices])
        else:
            crops = [crop_around(world.drawing(i), random) for i in indices]
            pixels = pixel_values([crop.picture for crop, _ in crops], CROP_PIXELS)
            labels = torch.stack([one for _, one in crops])
        return list(zip(torch.chunk(pixels, 2), torch.chunk(labels, 2), strict=True))

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        pixels, labels = batch
        return classifier.loss(classifier.patches(pixels), labels)

    run(Fit("lmm-warm-up", classifier, steps, batches, loss), folder, watch)
