"""Setup of a run's models: the frozen LMM and SAM, and an untrained head."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock
from pydantic import TypeAdapter

from flmm.atomic_write import write_file_atomically
from flmm.data.readers.files import read_json
from flmm.distributed import run_on_all_processes
from flmm.errors import InputError
from flmm.head.config import HeadConfig
from flmm.head.model import GroundingHead
from flmm.lmm.auto import load_lmm
from flmm.lmm.base import LMMAdapter
from flmm.lmm.placement import Placement
from flmm.progress import ProgressCallback
from flmm.segmenters.auto import load_segmenter
from flmm.train.dataset import UncachedDataset
from flmm.train.map_selection import score_maps, select_best_maps
from flmm.train.settings import HeadSettings, TrainingSettings
from flmm.user_input import parse_dtype

MAPS_FILE_NAME = "maps.json"
_MAPS = TypeAdapter(tuple[int, ...])


def load_frozen_lmm(settings: TrainingSettings, device: torch.device) -> LMMAdapter:
    """Load the LMM onto its device.

    Raises:
        InputError: it cannot be found or read.
    """
    placement = Placement(device, parse_dtype(settings.dtype))
    return load_lmm(settings.lmm, placement, settings.lmm_revision)


def build_head(
    settings: TrainingSettings, adapter: LMMAdapter, kept_maps: tuple[int, ...] | None
) -> GroundingHead:
    """Return an untrained head with pretrained SAM; its random weights depend on the seed.

    Raises:
        InputError: SAM cannot be read, or the settings do not suit the LMM.
    """
    if settings.sam == "none":
        raise InputError(
            "a head has a SAM, which --sam names; to train one whose masks SAM does not refine, set"
            " refine: false under head"
        )
    switches = settings.head.model_dump(exclude={"layers", "heads"})
    config = HeadConfig(
        layers=adapter.layers,
        heads=adapter.heads,
        hidden_size=adapter.hidden_size,
        views=adapter.views,
        kept_maps=kept_maps,
        base_model_name_or_path=settings.lmm,
        base_model_revision=settings.lmm_revision,
        base_model_type=adapter.model_type,
        refiner_name_or_path=settings.sam,
        **switches,
    )
    segmenter = load_segmenter(settings.sam)
    torch.manual_seed(settings.seed)
    return GroundingHead(config, segmenter)


def layer_map_indices(settings: HeadSettings, adapter: LMMAdapter) -> tuple[int, ...] | None:
    """Return the indices of the maps of the layers in the settings; None for all.

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


def load_or_select_maps(
    settings: TrainingSettings,
    count: int,
    make_dataset: Callable[[], UncachedDataset],
    accelerator: Accelerator,
    on_progress: ProgressCallback,
) -> tuple[int, ...]:
    """Return the ``count`` best maps on the run's first pictures; saved in the run's folder.

    Raises:
        InputError: the LMM has fewer maps, no picture can be read, or the folder cannot be locked.
    """
    file = settings.out / MAPS_FILE_NAME

    def choose() -> tuple[int, ...] | None:
        if not accelerator.is_main_process:
            return None
        with _lock_maps(settings.out):
            maps = _read_saved_maps(file, count) or _select_maps(
                settings, count, make_dataset(), on_progress
            )
            write_file_atomically(file, json.dumps(maps).encode())
        return maps

    maps = [run_on_all_processes(choose)]
    broadcast_object_list(maps)
    assert maps[0] is not None
    return tuple(maps[0])


@contextmanager
def _lock_maps(folder: Path) -> Iterator[None]:
    """Let one run at a time look for the maps; others that share its folder find the same ones."""
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(folder / "maps.lock"))
        except OSError as error:
            raise InputError(
                f"the run's folder {str(folder)!r} cannot be locked ({error.strerror}); choose"
                " another one"
            ) from error
        yield


def _read_saved_maps(file: Path, count: int) -> tuple[int, ...] | None:
    if not file.exists():
        return None
    maps = read_json(file, _MAPS)
    return maps if len(maps) == count else None


def _select_maps(
    settings: TrainingSettings, count: int, dataset: UncachedDataset, on_progress: ProgressCallback
) -> tuple[int, ...]:
    num_maps = dataset.extractor.config.num_lmm_maps
    if count > num_maps:
        raise InputError(f"heads is {count}; this LMM has {num_maps} maps a phrase, choose fewer")
    indices = range(min(settings.calibration_pictures, len(dataset)))
    examples = []
    for index in indices:
        on_progress(index, len(indices), "choosing maps")
        examples.extend(dataset.get([index]))
    if not examples:
        raise InputError(f"none of the first {len(indices)} pictures can be read; check the data")
    return select_best_maps(score_maps(examples), count)
