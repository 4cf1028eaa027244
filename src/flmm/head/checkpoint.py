"""A head on disk: ``config.json`` and ``model.safetensors``, with the trained weights only.

The LMM and SAM's vision encoder are named, not copied; ``check_compatible`` checks that an LMM fits
a head.
"""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flmm.atomic_write import write_file_atomically
from flmm.errors import InputError, first_line
from flmm.head.config import HeadConfig
from flmm.head.model import GroundingHead
from flmm.head.weights import find_mismatch, find_not_finite
from flmm.lmm.architecture import LMMArchitecture
from flmm.lmm.base import LMMAdapter
from flmm.lmm.model_names import (
    check_named_folder,
    from_saved_name,
    is_folder_name,
    to_saved_name,
)
from flmm.segmenters.auto import list_segmenter_families, load_segmenter
from flmm.segmenters.base import Segmenter
from flmm.user_input import resolve_model

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
FORMAT_VERSION = 1

_SAM_PREFIX = "refiner.sam."
_TRAINED_SAM_PREFIXES = (f"{_SAM_PREFIX}prompt_encoder.", f"{_SAM_PREFIX}mask_decoder.")
"""The rest of SAM is frozen and public."""


def trained_state_dict(head: GroundingHead) -> dict[str, Tensor]:
    """Return a head's weights, of SAM only the prompt encoder's and the mask decoder's."""
    return {
        name: tensor
        for name, tensor in head.state_dict().items()
        if name.startswith(_TRAINED_SAM_PREFIXES) or not name.startswith(_SAM_PREFIX)
    }


def save_head(head: GroundingHead, folder: str | Path) -> None:
    """Write a head to a folder, which is created if it is missing.

    Each file is written atomically. The folders of the LMM and SAM are named by their absolute
    paths or, inside the head's folder, by those in it, so that the head's folder can be moved.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = Path(folder)
    weights = {name: tensor.contiguous().cpu() for name, tensor in trained_state_dict(head).items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as partial:
            save_file(weights, Path(partial) / WEIGHTS_NAME, metadata={"format": "pt"})
            (Path(partial) / CONFIG_NAME).write_bytes(_serialize_config(head.config, folder))
            for name in (WEIGHTS_NAME, CONFIG_NAME):
                os.replace(Path(partial) / name, folder / name)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot write the head to {folder} ({first_line(error)}); choose another folder"
        ) from error


def save_config(config: HeadConfig, folder: str | Path) -> None:
    """Write a saved head's configuration anew, such as with another calibration of its scores.

    Raises:
        InputError: it cannot be written.
    """
    folder = Path(folder)
    write_file_atomically(folder / CONFIG_NAME, _serialize_config(config, folder))


def _serialize_config(config: HeadConfig, folder: Path) -> bytes:
    portable = _rename_models(config, lambda name: to_saved_name(name, folder))
    content = {"format_version": FORMAT_VERSION, **asdict(portable)}
    return f"{json.dumps(content, indent=2)}\n".encode()


def load_head(
    name: str | Path, segmenter: Segmenter | None = None, revision: str | None = None
) -> GroundingHead:
    """Load a head in evaluation mode.

    Args:
        name: a folder, a hub id such as "someone/their-head", or "embedded:head".
        segmenter: the refiner's SAM; None loads the one that the head names.
        revision: of a hub id.

    Raises:
        InputError: a file is missing, damaged or of another shape, or the hub cannot be reached.
    """
    folder = _find_or_download(name, revision)
    config = read_config(folder)
    head = GroundingHead(config, segmenter or _load_named_segmenter(config))
    _load_weights(head, folder / WEIGHTS_NAME)
    return head.eval()


def load_config(name: str | Path, revision: str | None = None) -> HeadConfig:
    """Load a head's configuration alone.

    Raises:
        InputError: as ``load_head`` does.
    """
    return read_config(_find_or_download(name, revision))


def load_untrained_segmenter(name: str | Path, revision: str | None = None) -> Segmenter:
    """Load the SAM that a head names, with its weights from before the head's training.

    Raises:
        InputError: as ``load_head`` does.
    """
    folder = _find_or_download(name, revision)
    return _load_named_segmenter(read_config(folder))


def _load_named_segmenter(config: HeadConfig) -> Segmenter:
    check_named_folder(config.refiner_name_or_path, "head", "SAM", "sam")
    return load_segmenter(config.refiner_name_or_path)


def _rename_models(config: HeadConfig, rename: Callable[[str], str]) -> HeadConfig:
    """Return the configuration with other names of the LMM and SAM."""
    return replace(
        config,
        base_model_name_or_path=rename(config.base_model_name_or_path),
        refiner_name_or_path=rename(config.refiner_name_or_path),
    )


def read_config(folder: Path) -> HeadConfig:
    """Read a head's ``config.json``; names of folders inside the head's become their paths.

    Raises:
        InputError: it is missing, not JSON, or has unknown or missing entries or wrong values.
    """
    path = folder / CONFIG_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}; give the folder of a saved head") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); save the head again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, not an object; save it again")
    if "format_version" not in content and "model_type" in content:
        model_type = content["model_type"]
        is_sam = any(model_type in family.model_types for family in list_segmenter_families())
        remedy = (
            "the SAM (--sam)"
            if is_sam
            else "the LMM (--lmm): without a head, masks need no training"
        )
        raise InputError(
            f"{folder} holds a model of type {model_type!r}, not a grounding head;"
            f" name it as {remedy}"
        )
    version = content.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} has format_version {version!r}, this flmm reads {FORMAT_VERSION}; "
            "upgrade flmm or save the head with this one"
        )
    allowed = {field.name: field for field in fields(HeadConfig)}
    unknown = sorted(set(content) - set(allowed))
    missing = sorted(
        name for name, field in allowed.items() if field.default is MISSING and name not in content
    )
    if unknown or missing:
        raise InputError(
            f"{path} has unknown entries {unknown} and lacks {missing}; give a saved head's folder"
        )
    for name, value in content.items():
        default = allowed[name].default
        expected = int if default is MISSING else type(default)
        optional_type = {"kept_maps": list, "score_calibration": dict}.get(name, str)
        valid_optional = default is None and (value is None or isinstance(value, optional_type))
        valid_float = expected is float and isinstance(value, int)
        if not (valid_optional or valid_float or type(value) is expected):
            raise InputError(
                f"{path} has {name} = {value!r}, not {expected.__name__}; save the head again"
            )
    return _rename_models(HeadConfig(**content), lambda name: from_saved_name(name, folder))


def check_compatible(config: HeadConfig, adapter: LMMAdapter) -> None:
    """Check that a head is for an LMM of this type and these sizes.

    Raises:
        InputError: layers, heads, width or views of a picture differ; or, where the head has them,
            the type, or the revision of the LMM that it names.
    """
    base, lmm = config.base_architecture, LMMArchitecture.of(adapter)
    base_model = config.base_model_name_or_path or "the LMM that it was trained on"
    remedy = (
        f"use {base_model}, or leave out the head (--model): without one, masks need no training"
    )
    if lmm.sizes != base.sizes:
        raise InputError(
            f"the head is for {base.sizes}, the LMM {adapter.name} has {lmm.sizes}; {remedy}"
        )
    if base.model_type and lmm.model_type != base.model_type:
        raise InputError(
            f"the head is for an LMM of type {base.model_type!r}, the LMM {adapter.name} is of type"
            f" {lmm.model_type!r}; {remedy}"
        )
    revisions = {config.base_model_revision, adapter.revision}
    if adapter.name == config.base_model_name_or_path and len(revisions - {None}) > 1:
        raise InputError(
            f"the head is for revision {config.base_model_revision!r} of the LMM {adapter.name},"
            f" not for {adapter.revision!r}; load that one"
        )


def resolve_lmm(head: str, config: HeadConfig, lmm: str | None) -> tuple[str, str | None]:
    """Return the name and revision of the LMM for a head; ``lmm`` is the user's choice.

    Raises:
        InputError: the user named another LMM than the head was trained on, or neither names one.
            A folder's name shows nothing, so for folders only type and sizes are checked, later.
    """
    base = config.base_model_name_or_path
    if not lmm and not base:
        raise InputError(f"the head {head!r} does not name its LMM; name it with --lmm (lmm=)")
    if not lmm or lmm == base:
        check_named_folder(base, "head", "LMM", "lmm")
        return base, config.base_model_revision
    if base and not is_folder_name(lmm) and not is_folder_name(base):
        raise InputError(
            f"the head {head!r} was trained on the LMM {base!r}, not on {lmm!r}; leave out the LMM,"
            " or the head (--model): without one, masks need no training"
        )
    return lmm, None


def _find_or_download(name: str | Path, revision: str | None) -> Path:
    """Return the head's folder, downloaded from the hub if ``name`` is not a folder."""
    folder = Path(resolve_model(str(name)))
    if folder.is_dir():
        return folder
    if isinstance(name, Path) or folder.exists() or folder.is_absolute() or name.startswith("."):
        raise InputError(f"{name} is not a folder; give the folder of a saved head or a hub id")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.safetensors"])
        )
    except (OSError, HFValidationError) as error:
        raise InputError(
            f"there is no folder {name!r}, and it could not be downloaded ({first_line(error)}); "
            "check the name, or the network"
        ) from error


def _load_weights(head: GroundingHead, path: Path) -> None:
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot read {path} ({first_line(error)}); save or download the head again"
        ) from error
    if problem := find_mismatch(trained_state_dict(head), weights):
        raise InputError(
            f"{path} {problem}; use the {CONFIG_NAME} and the refiner that it was saved with"
        )
    if problem := find_not_finite(weights):
        raise InputError(f"{path} {problem}; train the head again, or copy it again")
    head.load_state_dict(weights, strict=False)
