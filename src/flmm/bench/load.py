"""What loading an LMM costs in memory."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from flmm.bench.memory import forget_peak, in_a_process_of_its_own, measurable, peak
from flmm.bench.models import SMALL
from flmm.bench.record import Setting
from flmm.lmm.auto import load_lmm
from flmm.lmm.placement import Placement


@dataclass(frozen=True)
class LoadingCost:
    """Bytes of the weights, and the most that loading held beyond what was there before."""

    weights: int
    peak: int | None
    """None where the system does not tell."""


def measure(setting: Setting) -> LoadingCost:
    """Saves a random LMM, and loads it in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        weights = in_a_process_of_its_own(_save, setting, folder)
        if not measurable(setting.device):
            return LoadingCost(weights, None)
        return LoadingCost(weights, in_a_process_of_its_own(_load, setting, folder))


def _save(setting: Setting, folder: str) -> int:
    adapter, _ = setting.load()
    adapter.model.save_pretrained(folder)
    adapter.tokenizer.save_pretrained(folder)
    adapter.image_processor.save_pretrained(folder)
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def _load(setting: Setting, folder: str) -> int:
    # What imports and the device itself need is no part of the weights.
    replace(setting, size=SMALL).load()
    forget_peak(setting.device)
    before = peak(setting.device)
    load_lmm(folder, Placement(setting.device, setting.dtype))
    return peak(setting.device) - before
