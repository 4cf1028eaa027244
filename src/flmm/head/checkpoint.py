"""A head on disk: ``config.json`` and ``model.safetensors``, with the trained weights only.

The LMM and SAM's vision encoder are named, not copied; ``check_compatible`` checks that an LMM fits
a head.
"""

import json
import os
import tempfile
from dataclasses import MISSING, asdict, fields
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flmm.errors import InputError, first_line
from flmm.head.config import HeadConfig
from flmm.head.model import GroundingHead
from flmm.head.weights import find_mismatch
from flmm.lmm.base import LMMAdapter
from flmm.segmenters.auto import load_segmenter
from flmm.segmenters.base import Segmenter

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

    Each file is written atomically.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = Path(folder)
    weights = {name: tensor.contiguous().cpu() for name, tensor in trained_state_dict(head).items()}
    config = {"format_version": FORMAT_VERSION, **asdict(head.config)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as partial:
            save_file(weights, Path(partial) / WEIGHTS_NAME, metadata={"format": "pt"})
            (Path(partial) / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")
            for name in (WEIGHTS_NAME, CONFIG_NAME):
                os.replace(Path(partial) / name, folder / name)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot write the head to {folder} ({first_line(error)}); choose another folder"
        ) from error


def load_head(
    name: str | Path, segmenter: Segmenter | None = None, revision: str | None = None
) -> GroundingHead:
    """Load a head in evaluation mode.

    Args:
        name: a folder, or a hub id such as "someone/their-head".
        segmenter: the refiner's SAM; None loads the one that the head names, from a folder of that
            name inside the head's folder if there is one, else as a folder or hub id.
        revision: of a hub id.

    Raises:
        InputError: a file is missing, damaged or of another shape, or the hub cannot be reached.
    """
    folder = _find_or_download(name, revision)
    config = read_config(folder)
    head = GroundingHead(config, segmenter or _load_named_segmenter(folder, config))
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
    return _load_named_segmenter(folder, read_config(folder))


def _load_named_segmenter(folder: Path, config: HeadConfig) -> Segmenter:
    inside = folder / config.refiner_name_or_path
    return load_segmenter(inside if inside.is_dir() else config.refiner_name_or_path)


def read_config(folder: Path) -> HeadConfig:
    """Read a head's ``config.json``.

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
        raise InputError(
            f"{folder} holds a model of type {content['model_type']!r}, not a grounding head; name"
            " it as the LMM (--lmm): without a head, masks need no training"
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
        optional_type = list if name == "kept_maps" else str
        valid_optional = default is None and (value is None or isinstance(value, optional_type))
        valid_float = expected is float and isinstance(value, int)
        if not (valid_optional or valid_float or type(value) is expected):
            raise InputError(
                f"{path} has {name} = {value!r}, not {expected.__name__}; save the head again"
            )
    return HeadConfig(**content)


def check_compatible(config: HeadConfig, adapter: LMMAdapter) -> None:
    """Check that a head is for an LMM of these sizes.

    Raises:
        InputError: layers, heads, width or views of a picture differ.
    """
    lmm_sizes = (adapter.layers, adapter.heads, adapter.hidden_size, adapter.views)
    head_sizes = (config.layers, config.heads, config.hidden_size, config.views)
    if lmm_sizes != head_sizes:
        base_model = config.base_model_name_or_path or "the LMM that it was trained on"
        describe = "{} layers, {} heads, width {} and {} view(s) of a picture".format
        raise InputError(
            f"the head is for {describe(*head_sizes)}, the LMM {adapter.name} has"
            f" {describe(*lmm_sizes)}; use {base_model}, or leave out the head (--model): without"
            " one, masks need no training"
        )


def resolve_lmm(head: str, config: HeadConfig, lmm: str | None) -> tuple[str, str | None]:
    """Return the name and revision of the LMM for a head; ``lmm`` is the user's choice.

    Raises:
        InputError: the user named another LMM than the head was trained on, or neither names one.
            A folder's name shows nothing, so for folders only the sizes are checked, later.
    """
    base = config.base_model_name_or_path
    if not lmm and not base:
        raise InputError(f"the head {head!r} does not name its LMM; name it with --lmm (lmm=)")
    if not lmm or lmm == base:
        return base, config.base_model_revision
    if base and not Path(lmm).expanduser().is_dir() and not Path(base).is_dir():
        raise InputError(
            f"the head {head!r} was trained on the LMM {base!r}, not on {lmm!r}; leave out the LMM,"
            " or the head (--model): without one, masks need no training"
        )
    return lmm, None


def push_head_to_hub(head: GroundingHead, repo_id: str, private: bool = False) -> str:
    """Upload a head with a short model card; needs a hub login.

    Args:
        head: the head.
        repo_id: "owner/name", created if it is missing.
        private: whether a new repository is private.

    Returns:
        The repository's URL.

    Raises:
        InputError: the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    # That of the HTTP client of this huggingface_hub; a refused connection is no OSError.
    from huggingface_hub.errors import HTTPError as HubConnectionError  # type: ignore[attr-defined]

    try:
        with tempfile.TemporaryDirectory() as folder:
            save_head(head, folder)
            card = build_model_card(head.config)
            (Path(folder) / "README.md").write_text(card, encoding="utf-8")
            url = HfApi().create_repo(repo_id, private=private, exist_ok=True)
            HfApi().upload_folder(repo_id=repo_id, folder_path=folder)
    except (OSError, HFValidationError, HubConnectionError) as error:
        raise InputError(
            f"cannot upload the head to {repo_id!r} ({first_line(error)}); "
            "check the name, the network and `hf auth login`"
        ) from error
    return str(url)


def _find_or_download(name: str | Path, revision: str | None) -> Path:
    """Return the head's folder, downloaded from the hub if ``name`` is not a folder."""
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
    head.load_state_dict(weights, strict=False)


def build_model_card(config: HeadConfig, results: str = "") -> str:
    """Return the README of a head's folder or repository; ``results`` is Markdown."""
    base_model = (
        f"base_model: {config.base_model_name_or_path}\n" if config.base_model_name_or_path else ""
    )
    return (
        f"---\nlibrary_name: flmm\npipeline_tag: image-segmentation\n{base_model}---\n\n"
        f"A grounding head of [flmm](https://arxiv.org/abs/2406.05821): masks for what "
        f"`{config.base_model_name_or_path or 'its LMM'}` says, which itself stays untouched.\n"
        f"{results}"
    )
