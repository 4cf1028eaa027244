"""The whole recipe: scenes → LMM → SAM → head → one folder that `Grounder` loads."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from flmm.embedded_model.recipe import (
    head_training,
    lmm_architecture,
    lmm_training,
    sam_training,
    vision_warm_up,
)
from flmm.embedded_model.recipe.hardware import scale_steps
from flmm.embedded_model.recipe.score_calibration import SCORE_SCENES, calibrate_scores
from flmm.head.checkpoint import save_head
from flmm.lmm.auto import load_lmm
from flmm.progress import ProgressCallback, no_progress
from flmm.segmenters.auto import load_segmenter
from flmm.stickers.dataset import build_dataset


@dataclass(frozen=True)
class TrainingBudget:
    """The number of drawn scenes, and of each stage's steps on two cores.

    A GPU takes fewer steps with larger batches (`hardware.BATCH_SIZE_FACTOR`).
    """

    scenes: int = 32_000
    lmm_warm_up_steps: int = 1200
    lmm_steps: int = 20_800
    sam_warm_up_steps: int = 450
    sam_steps: int = 12_000
    head_steps: int = 27_000
    score_scenes: int = SCORE_SCENES


def build_model(
    folder: Path, budget: TrainingBudget, on_progress: ProgressCallback = no_progress
) -> Path:
    """Build the embedded model under `folder`; a second call resumes where the first one stopped.

    Stages whose result exists are skipped; `on_progress` gets the steps and losses of the others.
    Returns the folder with `lmm` and `head`.
    """
    dataset = build_dataset(folder / "world", budget.scenes, on_progress=on_progress)
    checkpoints, result = folder / "checkpoints", folder / "embedded"
    if not (result / "lmm" / "config.json").exists():
        train_lmm(folder, budget, on_progress)
    if not (result / "head" / "sam" / "config.json").exists():
        train_sam(folder, budget, on_progress)
    adapter = load_lmm(str(result / "lmm"))
    segmenter = load_segmenter(result / "head" / "sam")
    torch.manual_seed(2)
    head = head_training.build_head(adapter, segmenter)
    head_training.train(
        adapter, head, dataset, checkpoints, scale_steps(budget.head_steps), on_progress
    )
    save_head(head.to("cpu", torch.float16), result / "head")
    calibrate_scores(result, budget.score_scenes, on_progress)
    return result


def train_lmm(
    folder: Path, budget: TrainingBudget, on_progress: ProgressCallback = no_progress
) -> None:
    """Train the LMM: vision warm-up, then captions and answers; saved in half precision."""
    dataset = build_dataset(folder / "world", budget.scenes, on_progress=on_progress)
    torch.manual_seed(0)
    tokenizer = _load_or_build_tokenizer(folder / "checkpoints" / "tokenizer")
    lmm = lmm_architecture.build_lmm(tokenizer)
    classifier = vision_warm_up.LabelClassifier(lmm)
    checkpoints = folder / "checkpoints"
    vision_warm_up.warm_up(
        classifier, dataset, checkpoints, scale_steps(budget.lmm_warm_up_steps), on_progress
    )
    model = lmm_training.LMMWithClassifier(lmm, classifier)
    lmm_training.train(
        model, tokenizer, dataset, checkpoints, scale_steps(budget.lmm_steps), on_progress
    )
    target = folder / "embedded" / "lmm"
    tokenizer.save_pretrained(target)
    side = lmm_architecture.IMAGE_SIZE
    LlavaImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        do_pad=True,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(target)
    lmm.cpu().half().save_pretrained(target)  # type: ignore[no-untyped-call]


def _load_or_build_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Return the run's tokenizer: words that are added later must not renumber its tokens."""
    if not (folder / "tokenizer.json").exists():
        lmm_architecture.build_tokenizer().save_pretrained(folder)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def train_sam(
    folder: Path, budget: TrainingBudget, on_progress: ProgressCallback = no_progress
) -> None:
    """Train SAM: dense warm-up, then prompts; saved in half precision."""
    dataset = build_dataset(folder / "world", budget.scenes, on_progress=on_progress)
    torch.manual_seed(1)
    sam = sam_training.build_sam()
    checkpoints = folder / "checkpoints"
    sam_training.warm_up(
        sam, dataset, checkpoints, scale_steps(budget.sam_warm_up_steps), on_progress
    )
    sam_training.train(sam, dataset, checkpoints, scale_steps(budget.sam_steps), on_progress)
    target = folder / "embedded" / "head" / "sam"
    sam.cpu().half().save_pretrained(target)  # type: ignore[no-untyped-call]
