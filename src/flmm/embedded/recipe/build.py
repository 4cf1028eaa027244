"""The whole recipe: world → LMM → SAM → head → one folder that `Grounder` loads."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from flmm.embedded.recipe import head_training as head_recipe
from flmm.embedded.recipe import lmm_architecture as language_model
from flmm.embedded.recipe import lmm_training as lessons
from flmm.embedded.recipe import sam_training as segmenter
from flmm.embedded.recipe import vision_warm_up
from flmm.embedded.recipe.hardware import steps_here
from flmm.head.checkpoint import save_head
from flmm.lmm.auto import load_lmm
from flmm.masks.refiner import load_sam
from flmm.progress import Watch, unwatched
from flmm.stickers.dataset import build_world


@dataclass(frozen=True)
class Budget:
    """How long each stage trains, in steps of two cores, and on how many drawn scenes.

    A GPU takes fewer steps, from as many pictures in all (`machine.TIMES_AS_MANY`).
    """

    scenes: int = 32_000
    lmm_warm_up: int = 1200
    lmm: int = 20_800
    segmenter_warm_up: int = 450
    segmenter: int = 12_000
    head: int = 27_000


def build(folder: Path, budget: Budget, watch: Watch = unwatched) -> Path:
    """Make the embedded model under `folder`; a second call goes on where the first one stopped.

    Stages whose result is there already are skipped; `watch` is shown the others' steps and losses.
    Returns the folder with `lmm` and `head`.
    """
    world = build_world(folder / "world", budget.scenes, watch=watch)
    checkpoints, result = folder / "checkpoints", folder / "embedded"
    if not (result / "lmm" / "config.json").exists():
        train_lmm(folder, budget, watch)
    if not (result / "head" / "sam" / "config.json").exists():
        train_segmenter(folder, budget, watch)
    adapter = load_lmm(str(result / "lmm"))
    sam = load_sam(result / "head" / "sam")
    torch.manual_seed(2)
    head = head_recipe.build_head(adapter, sam)
    head_recipe.train(adapter, head, world, checkpoints, steps_here(budget.head), watch)
    save_head(head.to("cpu", torch.float16), result / "head")
    return result


def train_lmm(folder: Path, budget: Budget, watch: Watch = unwatched) -> None:
    """The LMM alone: vision warm-up, then captions and answers; saved in half precision."""
    world = build_world(folder / "world", budget.scenes, watch=watch)
    torch.manual_seed(0)
    tokenizer = _tokenizer(folder / "checkpoints" / "tokenizer")
    lmm = language_model.build_lmm(tokenizer)
    classifier = vision_warm_up.KindClassifier(lmm)
    checkpoints = folder / "checkpoints"
    vision_warm_up.warm_up(classifier, world, checkpoints, steps_here(budget.lmm_warm_up), watch)
    lesson = lessons.Lesson(lmm, classifier)
    lessons.train(lesson, tokenizer, world, checkpoints, steps_here(budget.lmm), watch)
    target = folder / "embedded" / "lmm"
    tokenizer.save_pretrained(target)
    side = language_model.PIXELS
    LlavaImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        do_pad=True,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(target)
    lmm.cpu().half().save_pretrained(target)  # type: ignore[no-untyped-call]


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The run's own: words that the world learns to say later must not renumber its tokens."""
    if not (folder / "tokenizer.json").exists():
        language_model.build_tokenizer().save_pretrained(folder)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def train_segmenter(folder: Path, budget: Budget, watch: Watch = unwatched) -> None:
    """SAM alone: dense warm-up, then prompts; saved in half precision."""
    world = build_world(folder / "world", budget.scenes, watch=watch)
    torch.manual_seed(1)
    sam = segmenter.build_segmenter()
    checkpoints = folder / "checkpoints"
    segmenter.warm_up(sam, world, checkpoints, steps_here(budget.segmenter_warm_up), watch)
    segmenter.train(sam, world, checkpoints, steps_here(budget.segmenter), watch)
    target = folder / "embedded" / "head" / "sam"
    sam.cpu().half().save_pretrained(target)  # type: ignore[no-untyped-call]
