"""The model type of a folder or hub repository, read without importing transformers."""

import json
from pathlib import Path

from flmm.errors import InputError


def expand_home(name: str) -> str:
    """Return a folder's name with the user's folder for "~"; other names unchanged."""
    folder = Path(name).expanduser()
    return str(folder) if folder.is_dir() else name


def read_model_type(name: str, revision: str | None = None, role: str = "LMM") -> str:
    """Return the ``model_type`` in the model's ``config.json``.

    ``role``: what errors call the model.

    Raises:
        InputError: the configuration cannot be found or names no model type.
    """
    path = _find_config(name, revision, role)
    try:
        model_type = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{role} {name!r}: {path} is not a model configuration; save the model there again"
        ) from error
    if not isinstance(model_type, str):
        raise InputError(
            f"{role} {name!r}: {path} has no model_type;"
            " name a transformers model (a head goes in --model, the LMM in --lmm)"
        )
    return model_type


def _find_config(name: str, revision: str | None, role: str) -> Path:
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(
                f"{role} {name!r} is a folder without config.json; give a folder made by"
                " save_pretrained, or a hub id"
            )
        return folder / "config.json"
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, "config.json", revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        option = role.lower().replace(" ", "-")
        at_revision = f" at revision {revision!r}" if revision else ""
        raise InputError(
            f"{role} {name!r}{at_revision} is neither a folder here nor a model that the hub gives;"
            " check the spelling, your network and your access, or name another with"
            f" --{option} ({option.replace('-', '_')}=)"
        ) from error
