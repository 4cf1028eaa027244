"""A profile: which attention heads of an LMM say where a phrase is, in a small JSON file."""

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import from_json

from flmm.atomic_write import write_file_atomically
from flmm.errors import InputError, describe_first_error, first_line
from flmm.lmm.base import LMMAdapter
from flmm.lmm.hub import upload_folder
from flmm.lmm.model_names import check_public_name, from_saved_name, to_saved_name

PROFILE_NAME = "flmm-profile.json"
"""The file's name in a hub repository."""
FORMAT_VERSION = 1
PROFILE_KIND = "training-free-profile"
"""The value of ``kind`` in the file, which tells it from a head's configuration."""


_Size = Annotated[int, Field(ge=1, le=10**6)]
_Weight = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Profile:
    """The weights of an LMM's attention heads, from ``flmm calibrate``.

    Raises:
        ValidationError: a value is of another type or out of range.
    """

    layers: _Size
    heads: _Size
    views: _Size
    base_model_name_or_path: Annotated[str, Field(min_length=1)]
    base_model_type: str
    head_weights: Annotated[tuple[_Weight, ...], Field(strict=False)]
    """views * layers * heads values, not all 0: how well each head's maps agree with what they
    should show, on average."""
    num_phrases: Annotated[int, Field(ge=1)]
    """How many phrases they were measured on."""
    with_masks: bool
    """Whether heads were compared with true masks; if not, with the consensus of all heads."""

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        count = self.views * self.layers * self.heads
        if len(self.head_weights) != count:
            raise ValueError(f"{len(self.head_weights)} head weights for {count} heads")
        if not any(self.head_weights):
            raise ValueError("all head weights are 0")
        return self


def save_profile(profile: Profile, path: Path) -> None:
    """Write a profile as JSON, atomically.

    The LMM's folder is named by its absolute path or, inside the file's folder, by the path in it,
    so that the two can be moved together.

    Raises:
        InputError: it cannot be written.
    """
    name = to_saved_name(profile.base_model_name_or_path, path.parent)
    portable = replace(profile, base_model_name_or_path=name)
    content = {"kind": PROFILE_KIND, "format_version": FORMAT_VERSION, **asdict(portable)}
    write_file_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def load_profile(path: Path) -> Profile:
    """Read a profile; the name of a folder inside the file's becomes its path.

    Raises:
        InputError: the file cannot be read or is no profile of this version.
    """
    try:
        content = from_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read the profile {path} ({first_line(error)}); calibrate again"
        ) from error
    if not isinstance(content, dict) or content.pop("kind", None) != PROFILE_KIND:
        raise InputError(f"{path} is no profile; give one that flmm calibrate wrote")
    if (version := content.pop("format_version", None)) != FORMAT_VERSION:
        raise InputError(
            f"{path} has format_version {version!r}, this flmm reads {FORMAT_VERSION};"
            " upgrade flmm or calibrate again"
        )
    try:
        profile = Profile(**content)
    except ValidationError as error:
        raise InputError(f"{path}: {describe_first_error(error)}; calibrate again") from error
    name = from_saved_name(profile.base_model_name_or_path, path.parent)
    return replace(profile, base_model_name_or_path=name)


def check_profile(profile: Profile, adapter: LMMAdapter) -> None:
    """Check that a profile is of this LMM.

    Raises:
        InputError: the types or sizes differ.
    """
    expected = (profile.base_model_type, profile.layers, profile.heads, profile.views)
    found = (adapter.model_type, adapter.layers, adapter.heads, adapter.views)
    if expected != found:
        describe = "{}, {} layers, {} heads, {} view(s)".format
        raise InputError(
            f"the profile is of {profile.base_model_name_or_path!r} ({describe(*expected)}), the"
            f" LMM {adapter.name!r} is another ({describe(*found)}); calibrate it"
        )


def check_public_lmm(name: str) -> None:
    """Check that others can load the LMM that a profile for the hub names.

    Raises:
        InputError: it is a folder.
    """
    check_public_name(name, "profile", "LMM", "name the LMM by its hub id, or do not upload it")


def push_profile_to_hub(profile: Profile, repo_id: str, private: bool = False) -> str:
    """Upload a profile; needs a hub login.

    Args:
        profile: of an LMM that others have.
        repo_id, private: as in ``upload_folder``.

    Returns:
        The repository's URL.

    Raises:
        InputError: the hub cannot be reached or refuses, or the profile's LMM is a folder.
    """
    check_public_lmm(profile.base_model_name_or_path)
    with tempfile.TemporaryDirectory() as folder:
        save_profile(profile, Path(folder) / PROFILE_NAME)
        return upload_folder(Path(folder), "profile", repo_id, private)


def download_profile(repo_id: str, revision: str | None = None) -> Profile | None:
    """Return the profile of a hub repository; None where it has none or cannot be reached.

    Raises:
        InputError: its file is no profile of this version.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        return load_profile(Path(hf_hub_download(repo_id, PROFILE_NAME, revision=revision)))
    except (OSError, HFValidationError):
        # Whoever loads it as a head reports what is wrong with the name or the network.
        return None
