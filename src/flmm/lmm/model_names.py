"""Names of LMMs and SAMs in a head's or profile's file that hold wherever its folder is.

A name is a hub id, an embedded model, a folder, or a folder inside that of the file, as "sam".
"""

from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from flmm.errors import InputError
from flmm.user_input import is_embedded


def to_saved_name(name: str, folder: Path) -> str:
    """Return the name of an LMM or SAM for a file in ``folder``.

    A folder inside that one keeps its name there, any other folder gets its absolute path, and
    other names stay as they are.
    """
    if not name or (not name.startswith(".") and not Path(name).is_absolute()
                    and (folder / name).is_dir()):  # fmt: skip
        return name
    path = Path(name).expanduser()
    if not path.is_dir():
        return name
    path, folder = path.resolve(), folder.resolve()
    if path != folder and path.is_relative_to(folder):
        return path.relative_to(folder).as_posix()
    return str(path)


def from_saved_name(name: str, folder: Path) -> str:
    """Return the name that ``to_saved_name`` gave, with the path of a folder inside ``folder``."""
    inside = folder.resolve() / name
    return str(inside) if name and not name.startswith(".") and inside.is_dir() else name


def is_hub_id(name: str) -> bool:
    """Return whether a name can be a hub id: it is written as one, and no folder here has it."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).expanduser().is_dir()


def is_folder_name(name: str) -> bool:
    """Return whether a name is that of a folder, here or elsewhere."""
    return bool(name) and not is_embedded(name) and not is_hub_id(name)


def check_public_name(name: str, owner: str, role: str, remedy: str) -> None:
    """Check that others can load the LMM or SAM that a head or profile names.

    Args:
        name: of the LMM or SAM.
        owner: what names it: "head" or "profile".
        role: "LMM" or "SAM".
        remedy: what the user can do, for the message.

    Raises:
        InputError: it is a folder.
    """
    if is_folder_name(name):
        raise InputError(
            f"the {owner}'s {role} is the folder {name!r}, which nobody else has; {remedy}"
        )


def check_named_folder(name: str, owner: str, role: str, option: str) -> None:
    """Check that the LMM or SAM that a head or profile names is here, if it is a folder.

    Args:
        name: of the LMM or SAM.
        owner: what names it: "head" or "profile".
        role: "LMM" or "SAM".
        option: with which the user can name another.

    Raises:
        InputError: it is not.
    """
    if is_embedded(name) or Path(name).expanduser().is_dir():
        return
    remedy = f"name its folder here or its hub id with --{option} ({option}=)"
    # Hub ids of LMMs and SAMs have an owner, so that a single word is a folder's name.
    if "/" not in name:
        raise InputError(
            f"the {owner}'s folder lacks its folder {name!r}, the {role}; copy the whole"
            f" {owner} again, or {remedy}"
        )
    if is_folder_name(name):
        raise InputError(
            f"the {owner} names the folder {name!r} as its {role}, which is not on this machine;"
            f" {remedy}"
        )
