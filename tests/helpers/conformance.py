"""Numbers from the authors' implementation: where they lie and how they are read.

``FLMM_CONFORMANCE`` names their folder, from the repository when it is relative; without it,
``shared/conformance`` beside the repository, or the copies in ``tests/parity/data``.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[2]
BESIDE = REPOSITORY.parent / "shared" / "conformance"
COPIES = REPOSITORY / "tests" / "parity" / "data"


@dataclass(frozen=True)
class Case:
    """One file: its tensors, and its metadata's JSON values by name."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    def state(self) -> dict[str, Tensor]:
        """The weights under the authors' names."""
        return {
            name.removeprefix("state."): tensor
            for name, tensor in self.tensors.items()
            if name.startswith("state.")
        }


def case_paths(kind: str) -> list[Path]:
    """Every file of a kind; a path that does not exist when there is none, so that tests fail."""
    named = os.environ.get("FLMM_CONFORMANCE") or (BESIDE if BESIDE.is_dir() else COPIES)
    folder = REPOSITORY / named
    pattern = f"official_{kind}_*"
    return sorted(folder.glob(pattern)) or [folder / pattern]


def read_case(path: Path) -> Case:
    """Reads one file; fails when ``case_paths`` found none."""
    assert path.is_file(), f"no conformance file matches {path}"
    with safe_open(path, "pt") as file:
        return Case({name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata()))  # noqa: SIM118
