"""The trained projector and head that lie beside this file, so that nobody need train them.

    PYTHONPATH=benchmarks python -m language_model.pretrained FOLDER

builds the LMM in FOLDER/lmm and its head in FOLDER/head, where training puts them. ``--save`` puts
the trained ones of FOLDER beside this file.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.models.aya_vision.modeling_aya_vision import AyaVisionForConditionalGeneration

from flmm.atomic_write import atomic_write
from flmm.errors import InputError
from flmm.head.checkpoint import load_config, load_head, save_config, save_head
from flmm.lmm.auto import load_lmm
from language_model.assembly import is_finished, make_untrained_lmm, save_lmm, whole_folder

PRETRAINED_FOLDER = Path(__file__).parent / "pretrained"
UNBUILT_LMM = "smollm2-llava"
"""What the head here names as its LMM, which is nowhere before it is built."""
_PROJECTOR_NAME = "projector.safetensors"


def round_to_half(module: nn.Module) -> None:
    """Round weights to what a file in float16 holds, so that all that is measured has those."""
    module.half().float()


def finish_head(training_result: Path, head: Path) -> None:
    """Save a trained head in float16 in the folder ``head``."""
    with whole_folder(head) as partial:
        shutil.copytree(training_result, partial)
        save_head(load_head(training_result).to(torch.float16), partial)


def build_pretrained(folder: Path, source: Path = PRETRAINED_FOLDER) -> tuple[Path, Path]:
    """Build the LMM and its head of SmolLM2 and the trained files; return their folders.

    Raises:
        InputError: SmolLM2 is not installed, or the folder has an LMM already.
    """
    lmm, head = folder / "lmm", folder / "head"
    if is_finished(lmm):
        raise InputError(f"{lmm} is there already; name another folder")
    adapter = load_lmm(str(make_untrained_lmm(folder / "untrained")))
    model = adapter.model
    assert isinstance(model, AyaVisionForConditionalGeneration)
    # Into float32 parameters, which hold float16's values exactly.
    model.model.multi_modal_projector.load_state_dict(load_file(source / _PROJECTOR_NAME))
    with whole_folder(lmm) as partial:
        save_lmm(model, adapter.tokenizer, partial)
        # Before the LMM is in place: who finds that, finds both.
        _copy_head(source / "head", head, str(lmm.resolve()))
    return lmm, head


def save_pretrained(folder: Path, target: Path = PRETRAINED_FOLDER) -> None:
    """Save the projector of ``folder``'s LMM, and its head, for ``build_pretrained``.

    Raises:
        InputError: the folder lacks one of them; nothing is saved.
    """
    load_config(folder / "head")
    model = load_lmm(str(folder / "lmm")).model
    assert isinstance(model, AyaVisionForConditionalGeneration)
    target.mkdir(parents=True, exist_ok=True)
    weights = model.model.multi_modal_projector.half().state_dict()
    with atomic_write(target / _PROJECTOR_NAME) as partial:
        save_file(weights, partial)
    _copy_head(folder / "head", target / "head", UNBUILT_LMM)


def _copy_head(source: Path, target: Path, lmm: str) -> None:
    with whole_folder(target) as partial:
        shutil.copytree(source, partial)
        save_config(replace(load_config(partial), base_model_name_or_path=lmm), partial)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--save", action="store_true", help="save the trained ones of the folder")
    arguments = parser.parse_args()
    try:
        if arguments.save:
            save_pretrained(arguments.folder)
        else:
            lmm, head = build_pretrained(arguments.folder)
            print(f"the LMM is in {lmm}; name its head as --model {head}")
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
