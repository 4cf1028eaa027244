"""What a run starts with: the frozen LMM and SAM, and a head to train."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from pydantic import TypeAdapter

from flmm.atomic_write import write_whole
from flmm.data.readers.files import read_json
from flmm.distributed import agree
from flmm.errors import InputError
from flmm.head.model import GroundingHead, HeadConfig
from flmm.lmm.auto import load_lmm
from flmm.lmm.base import LMMAdapter
from flmm.lmm.placement import Placement
from flmm.masks.refiner import load_sam
from flmm.progress import Watch
from flmm.train.dataset import LivePictures
from flmm.train.map_selection import best_maps, map_scores
from flmm.train.settings import HeadSettings, TrainingSettings
from flmm.user_input import find_dtype, find_folder

MAPS_NAME = "maps.json"
_MAPS = TypeAdapter(tuple[int, ...])


def load_frozen_lmm(settings: TrainingSettings, device: torch.device) -> LMMAdapter:
    """The LMM, on its device.

    Raises:
        InputError: it cannot be found or read.
    """
    placement = Placement(device, find_dtype(settings.dtype))
    return load_lmm(find_folder(settings.lmm), placement, settings.lmm_revision)


def new_head(
    settings: TrainingSettings, adapter: LMMAdapter, kept_maps: tuple[int, ...] | None
) -> GroundingHead:
    """An untrained head for an LMM, the same for the same seed; SAM's parts as they come.

    Raises:
        InputError: SAM cannot be read, or the settings do not suit the LMM.
    """
    switches = settings.head.model_dump(exclude={"layers", "heads"})
    config = HeadConfig(
        layers=adapter.layers,
        heads=adapter.heads,
        hidden_size=adapter.hidden_size,
        views=adapter.views,
        kept_maps=kept_maps,
        base_model_name_or_path=settings.lmm,
        base_model_revision=settings.lmm_revision,
        refiner_name_or_path=settings.sam,
        **switches,
    )
    sam = load_sam(find_folder(settings.sam))
    torch.manual_seed(settings.seed)
    return GroundingHead(config, sam)


def maps_of_layers(settings: HeadSettings, adapter: LMMAdapter) -> tuple[int, ...] | None:
    """The maps of the layers that the settings name; None for all.

    Raises:
        InputError: the LMM has no such layer.
    """
    if settings.layers is None:
        return None
    if not settings.layers or not all(0 <= layer < adapter.layers for layer in settings.layers):
        raise InputError(
            f"layers are {list(settings.layers)}; choose some of 0..{adapter.layers - 1}"
        )
    return tuple(
        (view * adapter.layers + layer) * adapter.heads + head
        for view in range(adapter.views)
        for layer in sorted(set(settings.layers))
        for head in range(adapter.heads)
    )


def choose_maps(
    settings: TrainingSettings,
    count: int,
    pictures: Callable[[], LivePictures],
    accelerator: Accelerator,
    watch: Watch,
) -> tuple[int, ...]:
    """The ``count`` most useful maps, found on the first pictures of the run; kept in its folder.

    Raises:
        InputError: the LMM has fewer, or no picture can be read.
    """
    file = settings.out / MAPS_NAME

    def choose() -> tuple[int, ...] | None:
        if not accelerator.is_main_process:
            return None
        maps = _kept_before(file, count) or _choose(settings, count, pictures(), watch)
        write_whole(file, json.dumps(maps).encode())
        return maps

    chosen = [agree(choose)]
    broadcast_object_list(chosen)
    assert chosen[0] is not None
    return tuple(chosen[0])


def _kept_before(file: Path, count: int) -> tuple[int, ...] | None:
    if not file.exists():
        return None
    maps = read_json(file, _MAPS)
    return maps if len(maps) == count else None


def _choose(
    settings: TrainingSettings, count: int, live: LivePictures, watch: Watch
) -> tuple[int, ...]:
    maps = live.extractor.head.config.all_maps
    if count > maps:
        raise InputError(f"heads is {count}; this LMM has {maps} maps a phrase, choose fewer")
    numbers = range(min(settings.calibration_pictures, len(live)))
    read = []
    for number in numbers:
        watch(number, len(numbers), "choosing maps")
        read.extend(live.get([number]))
    if not read:
        raise InputError(f"none of the first {len(numbers)} pictures can be read; check the data")
    return best_maps(map_scores(read), count)
