"""What the LMM learns: captions, answers and follow-ups, in words alone; it never sees a mask.

Pictures are small at first and then of full size; some come with a part of them as a second
picture, as visual chain of thought shows it.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

from flmm.embedded.recipe.cpu_attention import learn_with_it
from flmm.embedded.recipe.curriculum import Curriculum
from flmm.embedded.recipe.hardware import TIMES_AS_MANY
from flmm.embedded.recipe.lmm_architecture import PIXELS, SMALL_PIXELS, pixel_values
from flmm.embedded.recipe.packing import TextBatch, pack, text_loss
from flmm.embedded.recipe.training_loop import Fit, run
from flmm.embedded.recipe.vision_warm_up import (
    CROP_PIXELS,
    KindClassifier,
    labels_of,
    labels_of_look,
    number_crop,
)
from flmm.pictures.geometry import mask_box, square_around
from flmm.progress import Watch, unwatched
from flmm.stickers.dataset import World
from flmm.stickers.draw import Drawing
from flmm.stickers.language import Conversation, Turn, number_on, referring_expressions
from flmm.stickers.questions import (
    ask,
    ask_how_many,
    ask_number,
    ask_where,
    converse,
    say_all,
)
from flmm.stickers.scene import MOST_THINGS, Scene

_MICRO = 8 * TIMES_AS_MANY
# A picture and a part of it have twice the image tokens.
_LOOKS = 5 * TIMES_AS_MANY
# A caption is many words, an answer has one or two that count: with three answers a caption the LLM
# learned to name what is there long before it learned to look for what a question names.
_QUESTIONS = 7
_SMALL_UNTIL = 0.55
_LOOK_FROM, _LOOK_EVERY = 0.3, 3
_NUMBER_QUESTIONS = 3
_NUMBER_CROPS = 32 * TIMES_AS_MANY
_BLANK = 127

LessonBatch = tuple[TextBatch | Tensor, Tensor]
"""Texts, and the labels of each view of their pictures; or parts of pictures, and their labels."""


class Lesson(nn.Module):
    """The whole model, and beside it the warm-up's classifier, so that the tower forgets nothing.

    With the texts' loss alone, the vision tower unlearned the kinds before the LLM asked for them.
    """

    def __init__(self, lmm: LlavaForConditionalGeneration, classifier: KindClassifier) -> None:
        super().__init__()
        self.lmm = lmm
        self.classifier = classifier

    def loss(self, batch: LessonBatch) -> Tensor:
        texts, labels = batch
        if isinstance(texts, Tensor):
            return self.classifier.loss(self.classifier.patches(texts), labels)
        patches = self.classifier.patches(texts.pixels)
        kinds = self.classifier.loss(patches, labels)
        return text_loss(self.lmm, texts, patches) + 0.3 * kinds


def closer_look(drawing: Drawing, index: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """The part of a picture around a thing, cut as `flmm think` cuts it, from masks as good as
    a head's."""
    mask = torch.from_numpy(drawing.thing_masks[index])
    box = mask_box(mask)
    assert box is not None
    margin = float(random.uniform(0.1, 0.4))
    x0, y0, x1, y1 = square_around(box, margin, drawing.owner.shape)
    picture = drawing.picture
    if random.random() < 0.3:
        picture = np.where(mask.numpy()[..., None], picture, np.uint8(_BLANK))
    return picture[y0:y1, x0:x1]


def _texts(drawing: Drawing, random: np.random.Generator) -> list[Conversation]:
    scene = drawing.scene
    texts: list[Conversation] = [(say_all(scene, random),)]
    texts += [(ask(scene, random),) for _ in range(_QUESTIONS - 2)]
    texts += [converse(scene, random) for _ in range(2)]
    texts += [(turn,) for turn in _looked_for(scene, random) if turn is not None]
    number = ask_number(scene, random) if random.random() < 0.2 else None
    return texts if number is None else [*texts, (number,)]


def _looked_for(scene: Scene, random: np.random.Generator) -> list[Turn | None]:
    """More of what asks most of its looking: which of several things is meant, and how many."""
    return [ask_where(scene, random), ask_where(scene, random), ask_how_many(scene, random)]


def _look(
    drawing: Drawing, random: np.random.Generator
) -> tuple[NDArray[np.uint8], list[Conversation], Tensor]:
    """A closer look, what is asked with it (mostly the number that it shows), and its labels."""
    scene = drawing.scene
    numbered = [
        index
        for index, thing in enumerate(scene.things)
        if thing.number is not None and referring_expressions(scene, index)
    ]
    texts: list[Conversation] = [(ask(scene, random),)]
    if not numbered:
        index = int(random.integers(len(scene.things)))
    else:
        index = numbered[int(random.integers(len(numbered)))]
        expressions = referring_expressions(scene, index)
        for expression in random.permutation(expressions)[:_NUMBER_QUESTIONS]:
            texts.append((number_on(scene, index, str(expression)),))
    return closer_look(drawing, index, random), texts, labels_of_look(scene, index)


def train(
    lesson: Lesson, tokenizer: PreTrainedTokenizerFast, world: World, folder: Path, steps: int,
    watch: Watch = unwatched,
) -> None:  # fmt: skip
    """Teach the whole model captions, lists, answers and follow-ups."""
    plan = Curriculum(world, 2, steps, ((0.06, 1), (0.12, 2), (0.2, 3), (1.0, MOST_THINGS)))
    learn_with_it(lesson.lmm)

    def batches(step: int) -> list[LessonBatch]:
        indices, random = plan.draw(step, 2 * _MICRO)
        side = SMALL_PIXELS if step < _SMALL_UNTIL * steps else PIXELS
        parts = [whole(indices[:_MICRO], random, side), numbers(random)]
        if step >= _LOOK_FROM * steps and step % _LOOK_EVERY == 0:
            return [*parts, looks(random, side)]
        return [*parts, whole(indices[_MICRO:], random, side)]

    def whole(indices: list[int], random: np.random.Generator, side: int) -> LessonBatch:
        drawings = [world.drawing(index) for index in indices]
        pixels = pixel_values([drawing.picture for drawing in drawings], side)
        texts = [_texts(drawing, random) for drawing in drawings]
        return pack(tokenizer, pixels, texts), labels_of([one.scene for one in drawings])

    def numbers(random: np.random.Generator) -> LessonBatch:
        drawings = [
            world.drawing(int(index)) for index in random.choice(plan.tagged, _NUMBER_CROPS)
        ]
        crops, labels = zip(*(number_crop(one, random) for one in drawings), strict=True)
        return pixel_values(crops, CROP_PIXELS), torch.stack(labels)

    def looks(random: np.random.Generator, side: int) -> LessonBatch:
        drawings = [world.drawing(int(index)) for index in random.choice(plan.tagged, _LOOKS)]
        closer, texts, near = zip(*(_look(drawing, random) for drawing in drawings), strict=True)
        pairs = zip((drawing.picture for drawing in drawings), closer, strict=True)
        pixels = pixel_values([view for pair in pairs for view in pair], side)
        labels = torch.stack([labels_of([one.scene for one in drawings]), torch.stack(near)], 1)
        return pack(tokenizer, pixels, texts), labels.flatten(0, 1)

    run(Fit("lmm", lesson, steps, batches, lesson.loss, learning_rate=1.5e-3), folder, watch)
