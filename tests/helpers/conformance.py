"""Reading of reference tensors from the authors' implementation.

``FLMM_CONFORMANCE`` is their folder, relative to the repository; the default is
``shared/conformance`` beside the repository, else the copies in ``tests/parity/data``.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED_FOLDER = REPOSITORY.parent / "shared" / "conformance"
COPIED_FOLDER = REPOSITORY / "tests" / "parity" / "data"


@dataclass(frozen=True)
class Case:
    """One reference file: its tensors, and its metadata's JSON values by name."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    def state(self) -> dict[str, Tensor]:
        """Return the weights by the authors' names."""
        return {
            name.removeprefix("state."): tensor
            for name, tensor in self.tensors.items()
            if name.startswith("state.")
        }


def case_paths(kind: str) -> list[Path]:
    """Return every file of a kind; if there is none, a missing path, so that tests fail."""
    configured = os.environ.get("FLMM_CONFORMANCE") or (
        SHARED_FOLDER if SHARED_FOLDER.is_dir() else COPIED_FOLDER
    )
    folder = REPOSITORY / configured
    pattern = f"official_{kind}_*"
    return sorted(folder.glob(pattern)) or [folder / pattern]


def read_case(path: Path) -> Case:
    """Read one file; fail if ``case_paths`` found none."""
    assert path.is_file(), f"no conformance file matches {path}"
    with safe_open(path, "pt") as file:
        return Case({name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata()))  # noqa: SIM118
