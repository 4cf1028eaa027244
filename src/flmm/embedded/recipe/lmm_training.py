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

from flmm.embedded.recipe.cpu_attention import use_cpu_attention
from flmm.embedded.recipe.curriculum import Curriculum
from flmm.embedded.recipe.hardware import BATCH_SIZE_FACTOR
from flmm.embedded.recipe.lmm_architecture import IMAGE_SIZE, SMALL_IMAGE_SIZE, preprocess_pictures
from flmm.embedded.recipe.packing import TextBatch, pack_conversations, text_loss
from flmm.embedded.recipe.training_loop import TrainingStage, train_stage
from flmm.embedded.recipe.vision_warm_up import (
    CROP_SIZE,
    LabelClassifier,
    closer_look_labels,
    crop_number,
    scene_labels,
)
from flmm.pictures.geometry import mask_box, square_box_around
from flmm.progress import ProgressCallback, no_progress
from flmm.stickers.dataset import SceneDataset
from flmm.stickers.draw import Drawing
from flmm.stickers.language import Conversation, Turn, referring_expressions, tag_number_turn
from flmm.stickers.questions import (
    ask_description,
    ask_how_many,
    ask_random_question,
    ask_tag_number,
    ask_where,
    generate_conversation,
)
from flmm.stickers.scene import MAX_THINGS, Scene

_MICRO_BATCH_SIZE = 8 * BATCH_SIZE_FACTOR
# A picture and a part of it have twice the image tokens.
_CLOSER_LOOK_BATCH_SIZE = 5 * BATCH_SIZE_FACTOR
# A caption is many words, an answer has one or two that count: with three answers a caption the LLM
# learned to name what is there long before it learned to look for what a question names.
_QUESTIONS = 7
_SMALL_IMAGES_UNTIL = 0.55
_CLOSER_LOOKS_FROM, _CLOSER_LOOK_EVERY = 0.3, 3
_NUMBER_QUESTIONS = 3
_NUMBER_CROP_BATCH_SIZE = 32 * BATCH_SIZE_FACTOR
_MASKED_GREY = 127

LMMBatch = tuple[TextBatch | Tensor, Tensor]
"""Texts, and the labels of each view of their pictures; or parts of pictures, and their labels."""


class LMMWithClassifier(nn.Module):
    """The whole model, and beside it the warm-up's classifier, so that the tower forgets nothing.

    With the texts' loss alone, the vision tower unlearned the kinds before the LLM asked for them.
    """

    def __init__(self, lmm: LlavaForConditionalGeneration, classifier: LabelClassifier) -> None:
        super().__init__()
        self.lmm = lmm
        self.classifier = classifier

    def loss(self, batch: LMMBatch) -> Tensor:
        texts, labels = batch
        if isinstance(texts, Tensor):
            return self.classifier.loss(self.classifier.patch_features(texts), labels)
        patches = self.classifier.patch_features(texts.pixel_values)
        kinds = self.classifier.loss(patches, labels)
        return text_loss(self.lmm, texts, patches) + 0.3 * kinds


def crop_closer_look(
    drawing: Drawing, index: int, random: np.random.Generator
) -> NDArray[np.uint8]:
    """The part of a picture around a thing, cut as `flmm think` cuts it, from masks as good as
    a head's."""
    mask = torch.from_numpy(drawing.thing_masks[index])
    box = mask_box(mask)
    assert box is not None
    margin = float(random.uniform(0.1, 0.4))
    x0, y0, x1, y1 = square_box_around(box, margin, drawing.region_ids.shape)
    picture = drawing.picture
    if random.random() < 0.3:
        picture = np.where(mask.numpy()[..., None], picture, np.uint8(_MASKED_GREY))
    return picture[y0:y1, x0:x1]


def _sample_texts(drawing: Drawing, random: np.random.Generator) -> list[Conversation]:
    scene = drawing.scene
    texts: list[Conversation] = [(ask_description(scene, random),)]
    texts += [(ask_random_question(scene, random),) for _ in range(_QUESTIONS - 2)]
    texts += [generate_conversation(scene, random) for _ in range(2)]
    texts += [(turn,) for turn in _sample_hard_questions(scene, random) if turn is not None]
    number = ask_tag_number(scene, random) if random.random() < 0.2 else None
    return texts if number is None else [*texts, (number,)]


def _sample_hard_questions(scene: Scene, random: np.random.Generator) -> list[Turn | None]:
    """More of what asks most of its looking: which of several things is meant, and how many."""
    return [ask_where(scene, random), ask_where(scene, random), ask_how_many(scene, random)]


def _sample_closer_look(
    drawing: Drawing, random: np.random.Generator
) -> tuple[NDArray[np.uint8], list[Conversation], Tensor]:
    """A closer look, what is asked with it (mostly the number that it shows), and its labels."""
    scene = drawing.scene
    numbered = [
        index
        for index, thing in enumerate(scene.things)
        if thing.tag_number is not None and referring_expressions(scene, index)
    ]
    texts: list[Conversation] = [(ask_random_question(scene, random),)]
    if not numbered:
        index = int(random.integers(len(scene.things)))
    else:
        index = numbered[int(random.integers(len(numbered)))]
        expressions = referring_expressions(scene, index)
        for expression in random.permutation(expressions)[:_NUMBER_QUESTIONS]:
            texts.append((tag_number_turn(scene, index, str(expression)),))
    return crop_closer_look(drawing, index, random), texts, closer_look_labels(scene, index)


def train(
    model: LMMWithClassifier, tokenizer: PreTrainedTokenizerFast, dataset: SceneDataset,
    folder: Path, steps: int,
    on_progress: ProgressCallback = no_progress,
) -> None:  # fmt: skip
    """Teach the whole model captions, lists, answers and follow-ups."""
    plan = Curriculum(dataset, 2, steps, ((0.06, 1), (0.12, 2), (0.2, 3), (1.0, MAX_THINGS)))
    use_cpu_attention(model.lmm)

    def batches(step: int) -> list[LMMBatch]:
        indices, random = plan.sample(step, 2 * _MICRO_BATCH_SIZE)
        side = SMALL_IMAGE_SIZE if step < _SMALL_IMAGES_UNTIL * steps else IMAGE_SIZE
        parts = [whole(indices[:_MICRO_BATCH_SIZE], random, side), numbers(random)]
        if step >= _CLOSER_LOOKS_FROM * steps and step % _CLOSER_LOOK_EVERY == 0:
            return [*parts, looks(random, side)]
        return [*parts, whole(indices[_MICRO_BATCH_SIZE:], random, side)]

    def whole(indices: list[int], random: np.random.Generator, side: int) -> LMMBatch:
        drawings = [dataset.drawing(index) for index in indices]
        pixels = preprocess_pictures([drawing.picture for drawing in drawings], side)
        texts = [_sample_texts(drawing, random) for drawing in drawings]
        return pack_conversations(tokenizer, pixels, texts), scene_labels(
            [one.scene for one in drawings]
        )

    def numbers(random: np.random.Generator) -> LMMBatch:
        drawings = [
            dataset.drawing(int(index))
            for index in random.choice(plan.tagged_scenes, _NUMBER_CROP_BATCH_SIZE)
        ]
        crops, labels = zip(*(crop_number(one, random) for one in drawings), strict=True)
        return preprocess_pictures(crops, CROP_SIZE), torch.stack(labels)

    def looks(random: np.random.Generator, side: int) -> LMMBatch:
        drawings = [
            dataset.drawing(int(index))
            for index in random.choice(plan.tagged_scenes, _CLOSER_LOOK_BATCH_SIZE)
        ]
        closer, texts, near = zip(
            *(_sample_closer_look(drawing, random) for drawing in drawings), strict=True
        )
        pairs = zip((drawing.picture for drawing in drawings), closer, strict=True)
        pixels = preprocess_pictures([view for pair in pairs for view in pair], side)
        labels = torch.stack([scene_labels([one.scene for one in drawings]), torch.stack(near)], 1)
        return pack_conversations(tokenizer, pixels, texts), labels.flatten(0, 1)

    train_stage(
        TrainingStage("lmm", model, steps, batches, model.loss, learning_rate=1.5e-3),
        folder,
        on_progress,
    )
