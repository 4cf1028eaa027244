"""The peak memory of loading an LMM."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from flmm.bench.memory import can_measure_peak, read_peak, reset_peak, run_in_new_process
from flmm.bench.models import SMALL
from flmm.bench.record import ChatSetting
from flmm.lmm.auto import load_lmm
from flmm.lmm.placement import Placement


@dataclass(frozen=True)
class LoadingCost:
    """Bytes of the weights' files, and peak bytes of loading beyond those in use before."""

    weights: int
    peak: int | None
    """None where the system cannot measure it."""


def measure(setting: ChatSetting) -> LoadingCost:
    """Save a random LMM, load it in a new process and return what that costs."""
    with tempfile.TemporaryDirectory() as folder:
        weights = run_in_new_process(_save, setting, folder)
        if not can_measure_peak(setting.device):
            return LoadingCost(weights, None)
        return LoadingCost(weights, run_in_new_process(_load, setting, folder))


def _save(setting: ChatSetting, folder: str) -> int:
    adapter, _ = setting.load_model()
    adapter.model.save_pretrained(folder)
    adapter.tokenizer.save_pretrained(folder)
    adapter.image_processor.save_pretrained(folder)
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def _load(setting: ChatSetting, folder: str) -> int:
    # A small model first: memory of imports and of the device itself must not count.
    replace(setting, llm_size=SMALL).load_model()
    reset_peak(setting.device)
    before = read_peak(setting.device)
    load_lmm(folder, Placement(setting.device, setting.dtype))
    return read_peak(setting.device) - before
