"""The right to write results."""

from pathlib import Path

import pytest

from flmm.batch.storage.lock import lock_for_writing
from flmm.errors import InputError


def test_a_folder_in_which_no_file_can_be_made(tmp_path: Path) -> None:
    # A folder in the file's place stands for a full disk, which also fails after the lock.
    (tmp_path / "writer-0-of-1.json").mkdir()
    with (
        pytest.raises(InputError, match="cannot be written"),
        lock_for_writing(tmp_path, tmp_path, (0, 1)),
    ):
        pass
