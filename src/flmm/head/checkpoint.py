"""A head on disk: ``config.json`` and ``model.safetensors``, only what was trained.

The LMM and SAM's vision encoder are named, not copied; ``check_matches`` says whether an LMM is the
one that a head was made for.
"""

import json
import os
import tempfile
from dataclasses import MISSING, asdict, fields
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import SamModel

from flmm.errors import InputError
from flmm.head.model import GroundingHead, HeadConfig
from flmm.head.weights import find_mismatch
from flmm.lmm.base import LMMAdapter
from flmm.masks.refiner import load_sam

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
FORMAT_VERSION = 1

UNSAVED_PREFIXES = ("refiner.sam.vision_encoder.", "refiner.sam.shared_image_embedding.")
"""Frozen and public; the shared embedding is the prompt encoder's own under a second name."""


def trained_state_dict(head: GroundingHead) -> dict[str, Tensor]:
    """The weights that make a head: U-Net, SAM's prompt encoder and mask decoder, the rest."""
    return {
        name: tensor
        for name, tensor in head.state_dict().items()
        if not name.startswith(UNSAVED_PREFIXES)
    }


def save_head(head: GroundingHead, folder: str | Path) -> None:
    """Writes a head to a folder, which is made when it is missing.

    Each file appears whole or not at all: it is written beside its place and then moved there.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = Path(folder)
    weights = {name: tensor.contiguous().cpu() for name, tensor in trained_state_dict(head).items()}
    config = {"format_version": FORMAT_VERSION, **asdict(head.config)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as new:
            save_file(weights, Path(new) / WEIGHTS_NAME, metadata={"format": "pt"})
            (Path(new) / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")
            for name in (WEIGHTS_NAME, CONFIG_NAME):
                os.replace(Path(new) / name, folder / name)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot write the head to {folder} ({_first_line(error)}); choose another folder"
        ) from error


def load_head(
    name: str | Path, sam: SamModel | None = None, revision: str | None = None
) -> GroundingHead:
    """Reads a head, ready for inference.

    Args:
        name: a folder, or a hub id such as "someone/their-head".
        sam: the refiner's SAM; None loads the one that the head names, first from a folder of that
            name inside the head's own, else as a folder or hub id by itself.
        revision: of a hub id.

    Raises:
        InputError: a file is missing, damaged or of another shape, or the hub cannot be reached.
    """
    folder = _find_or_download(name, revision)
    config = read_config(folder)
    head = GroundingHead(config, sam or _load_named_sam(folder, config))
    _load_weights(head, folder / WEIGHTS_NAME)
    return head.eval()


def load_untrained_sam(name: str | Path, revision: str | None = None) -> SamModel:
    """The SAM that a head names, as it was before the head was trained.

    Raises:
        InputError: as ``load_head`` does.
    """
    folder = _find_or_download(name, revision)
    return _load_named_sam(folder, read_config(folder))


def _load_named_sam(folder: Path, config: HeadConfig) -> SamModel:
    inside = folder / config.refiner_name_or_path
    return load_sam(inside if inside.is_dir() else config.refiner_name_or_path)


def read_config(folder: Path) -> HeadConfig:
    """Reads a head's ``config.json``.

    Raises:
        InputError: it is missing, no JSON, or has other entries or values than a head's.
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
        wanted = int if default is MISSING else type(default)
        given = list if name == "kept_maps" else str
        optional = default is None and (value is None or isinstance(value, given))
        number = wanted is float and isinstance(value, int)
        if not (optional or number or type(value) is wanted):
            raise InputError(
                f"{path} has {name} = {value!r}, not {wanted.__name__}; save the head again"
            )
    return HeadConfig(**content)


def check_compatible(config: HeadConfig, adapter: LMMAdapter) -> None:
    """Says whether a head was made for an LMM of these sizes.

    Raises:
        InputError: layers, heads, width or views of a picture differ.
    """
    found = (adapter.layers, adapter.heads, adapter.hidden_size, adapter.views)
    wanted = (config.layers, config.heads, config.hidden_size, config.views)
    if found != wanted:
        remedy = config.base_model_name_or_path or "the LMM that it was trained on"
        described = "{} layers, {} heads, width {} and {} view(s) of a picture".format
        raise InputError(
            f"the head is for {described(*wanted)}, the LMM {adapter.name} has"
            f" {described(*found)}; use {remedy} or train a head for this LMM"
        )


def find_lmm(head: str, config: HeadConfig, lmm: str | None) -> tuple[str, str | None]:
    """The LMM's name and revision for a head.

    Raises:
        InputError: the user named another LMM than the head was trained on, or nobody named one.
            Folders have any name, so for them only the sizes are checked, later.
    """
    base = config.base_model_name_or_path
    if not lmm and not base:
        raise InputError(f"the head {head!r} does not name its LMM; name it with --lmm (lmm=)")
    if not lmm or lmm == base:
        return base, config.base_model_revision
    if base and not Path(lmm).expanduser().is_dir() and not Path(base).is_dir():
        raise InputError(
            f"the head {head!r} was trained on the LMM {base!r}, not on {lmm!r}; "
            "leave out the LMM, or give a head that was trained on it"
        )
    return lmm, None


def push_head_to_hub(head: GroundingHead, repo_id: str, private: bool = False) -> str:
    """Uploads a head with a short model card; needs a hub login.

    Args:
        head: the head.
        repository: "owner/name", made when it is missing.
        private: whether a new repository is hidden from others.

    Returns:
        The repository's address.

    Raises:
        InputError: the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    # Whichever HTTP client this version of the hub uses; a refused connection is no OSError.
    from huggingface_hub.errors import HTTPError as HubConnectionError  # type: ignore[attr-defined]

    try:
        with tempfile.TemporaryDirectory() as folder:
            save_head(head, folder)
            card = model_card(head.config)
            (Path(folder) / "README.md").write_text(card, encoding="utf-8")
            address = HfApi().create_repo(repo_id, private=private, exist_ok=True)
            HfApi().upload_folder(repo_id=repo_id, folder_path=folder)
    except (OSError, HFValidationError, HubConnectionError) as error:
        raise InputError(
            f"cannot upload the head to {repo_id!r} ({_first_line(error)}); "
            "check the name, the network and `hf auth login`"
        ) from error
    return str(address)


def _find_or_download(name: str | Path, revision: str | None) -> Path:
    """The head's folder, fetched from the hub when ``name`` is none on this disk."""
    folder = Path(name)
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
            f"there is no folder {name!r}, and the hub gave none ({_first_line(error)}); "
            "check the name, or the network"
        ) from error


def _load_weights(head: GroundingHead, path: Path) -> None:
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot read {path} ({_first_line(error)}); save or download the head again"
        ) from error
    if problem := find_mismatch(trained_state_dict(head), weights):
        raise InputError(
            f"{path} {problem}; use the {CONFIG_NAME} and the refiner that it was saved with"
        )
    head.load_state_dict(weights, strict=False)


def model_card(config: HeadConfig, results: str = "") -> str:
    """The README of a head's folder or repository; ``measured``: its figures, as Markdown."""
    base = (
        f"base_model: {config.base_model_name_or_path}\n" if config.base_model_name_or_path else ""
    )
    return (
        f"---\nlibrary_name: flmm\npipeline_tag: image-segmentation\n{base}---\n\n"
        f"A grounding head of [flmm](https://arxiv.org/abs/2406.05821): masks for what "
        f"`{config.base_model_name_or_path or 'its LMM'}` says, which itself stays untouched.\n"
        f"{results}"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
