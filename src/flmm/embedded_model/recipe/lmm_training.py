"""Training of the LMM on captions, answers and follow-ups; it never sees a mask.

Pictures are small at first, then of full size; some have a crop as a second picture, as in visual
chain of thought.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

from flmm.embedded_model.recipe.cpu_attention import use_cpu_attention
from flmm.embedded_model.recipe.curriculum import Curriculum
from flmm.embedded_model.recipe.hardware import BATCH_SIZE_FACTOR
from flmm.embedded_model.recipe.lmm_architecture import (
    IMAGE_SIZE,
    SMALL_IMAGE_SIZE,
    preprocess_pictures,
)
from flmm.embedded_model.recipe.packing import TextBatch, pack_conversations, text_loss
from flmm.embedded_model.recipe.training_loop import TrainingStage, train_stage
from flmm.embedded_model.recipe.vision_warm_up import (
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
# A picture with a crop has twice the image tokens.
_CLOSER_LOOK_BATCH_SIZE = 5 * BATCH_SIZE_FACTOR
# A caption has many informative words, an answer one or two: with three answers per caption, the
# LMM learned to caption long before it learned to look for what a question names.
_QUESTIONS = 7
_SMALL_IMAGES_UNTIL = 0.55
_CLOSER_LOOKS_FROM, _CLOSER_LOOK_EVERY = 0.3, 3
_NUMBER_QUESTIONS = 3
_NUMBER_CROP_BATCH_SIZE = 32 * BATCH_SIZE_FACTOR
_MASKED_GREY = 127

LMMBatch = tuple[TextBatch | Tensor, Tensor]
"""Texts with the labels of each view of their pictures, or crops with their labels."""


class LMMWithClassifier(nn.Module):
    """The LMM with the warm-up's classifier.

    With the text loss alone, the vision tower forgot the kinds before the LLM used them.
    """

    def __init__(self, lmm: LlavaForConditionalGeneration, classifier: LabelClassifier) -> None:
        super().__init__()
        self.lmm = lmm
        self.classifier = classifier

    def loss(self, batch: LMMBatch) -> Tensor:
        """Return the text loss plus 0.3 times the classifier's; for crops, the classifier's."""
        texts, labels = batch
        if isinstance(texts, Tensor):
            return self.classifier.loss(self.classifier.patch_features(texts), labels)
        patches = self.classifier.patch_features(texts.pixel_values)
        label_loss = self.classifier.loss(patches, labels)
        return text_loss(self.lmm, texts, patches) + 0.3 * label_loss


def crop_closer_look(
    drawing: Drawing, index: int, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Return the crop around a thing as `flmm think` makes it, here from the true mask.

    In 30 % of the crops all but the thing is grey.
    """
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
    """Return more of the hardest questions: where a thing is, and how many there are."""
    return [ask_where(scene, random), ask_where(scene, random), ask_how_many(scene, random)]


def _sample_closer_look(
    drawing: Drawing, random: np.random.Generator
) -> tuple[NDArray[np.uint8], list[Conversation], Tensor]:
    """Return a crop, conversations with it (mostly about the number that it shows), its labels."""
    scene = drawing.scene
    tagged = [
        index
        for index, thing in enumerate(scene.things)
        if thing.tag_number is not None and referring_expressions(scene, index)
    ]
    texts: list[Conversation] = [(ask_random_question(scene, random),)]
    if not tagged:
        index = int(random.integers(len(scene.things)))
    else:
        index = tagged[int(random.integers(len(tagged)))]
        expressions = referring_expressions(scene, index)
        for expression in random.permutation(expressions)[:_NUMBER_QUESTIONS]:
            texts.append((tag_number_turn(scene, index, str(expression)),))
    return crop_closer_look(drawing, index, random), texts, closer_look_labels(scene, index)


def train(
    model: LMMWithClassifier, tokenizer: PreTrainedTokenizerFast, dataset: SceneDataset,
    folder: Path, steps: int,
    on_progress: ProgressCallback = no_progress,
) -> None:  # fmt: skip
    """Train the whole model on captions, lists, answers and follow-ups."""
    curriculum = Curriculum(dataset, 2, steps, ((0.06, 1), (0.12, 2), (0.2, 3), (1.0, MAX_THINGS)))
    use_cpu_attention(model.lmm)

    def batches(step: int) -> list[LMMBatch]:
        indices, random = curriculum.sample(step, 2 * _MICRO_BATCH_SIZE)
        side = SMALL_IMAGE_SIZE if step < _SMALL_IMAGES_UNTIL * steps else IMAGE_SIZE
        parts = [whole_pictures(indices[:_MICRO_BATCH_SIZE], random, side), number_crops(random)]
        if step >= _CLOSER_LOOKS_FROM * steps and step % _CLOSER_LOOK_EVERY == 0:
            return [*parts, closer_looks(random, side)]
        return [*parts, whole_pictures(indices[_MICRO_BATCH_SIZE:], random, side)]

    def whole_pictures(indices: list[int], random: np.random.Generator, side: int) -> LMMBatch:
        drawings = [dataset.drawing(index) for index in indices]
        pixels = preprocess_pictures([drawing.picture for drawing in drawings], side)
        texts = [_sample_texts(drawing, random) for drawing in drawings]
        return pack_conversations(tokenizer, pixels, texts), scene_labels(
            [drawing.scene for drawing in drawings]
        )

    def number_crops(random: np.random.Generator) -> LMMBatch:
        drawings = [
            dataset.drawing(int(index))
            for index in random.choice(curriculum.tagged_scenes, _NUMBER_CROP_BATCH_SIZE)
        ]
        crops, labels = zip(*(crop_number(drawing, random) for drawing in drawings), strict=True)
        return preprocess_pictures(crops, CROP_SIZE), torch.stack(labels)

    def closer_looks(random: np.random.Generator, side: int) -> LMMBatch:
        drawings = [
            dataset.drawing(int(index))
            for index in random.choice(curriculum.tagged_scenes, _CLOSER_LOOK_BATCH_SIZE)
        ]
        crops, texts, crop_labels = zip(
            *(_sample_closer_look(drawing, random) for drawing in drawings), strict=True
        )
        pairs = zip((drawing.picture for drawing in drawings), crops, strict=True)
        pixels = preprocess_pictures([view for pair in pairs for view in pair], side)
        picture_labels = scene_labels([drawing.scene for drawing in drawings])
        labels = torch.stack([picture_labels, torch.stack(crop_labels)], 1)
        return pack_conversations(tokenizer, pixels, texts), labels.flatten(0, 1)

    train_stage(
        TrainingStage("lmm", model, steps, batches, model.loss, learning_rate=1.5e-3),
        folder,
        on_progress,
    )
