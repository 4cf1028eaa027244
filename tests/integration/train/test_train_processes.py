"""Training in two processes: an error in one ends both, with nothing lost."""

import json
from pathlib import Path

import pytest
import torch
from command import CommandResult, run_in_process, run_in_two_processes
from training_workspace import TrainingWorkspace, make_workspace


@pytest.fixture
def workspace(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingWorkspace:
    return make_workspace(tmp_path, tmp_path_factory)


def flmm_with_file_limit(rank: int, size: int) -> str:
    """Return code that runs `flmm` with files of at most ``size`` bytes in process ``rank``."""
    return f"""
import os, resource, signal
if os.environ["RANK"] == "{rank}":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
from flmm.cli.main import run
run()
"""


def assert_both_fail(processes: list[CommandResult], message: str) -> None:
    for ended in processes:
        assert (ended.code, ended.out) == (2, ""), ended.err
        assert message in ended.err.splitlines()[-1]
        assert "Traceback" not in ended.err


def test_unwritable_checkpoint_ends_both_processes(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = str(workspace.write_settings(epochs=1, validation=[]))
    assert run_in_process(["train", settings], capsys).code == 0
    # Restart from step 0: the first step ends with a checkpoint.
    checkpoint = workspace.folder / "run" / "checkpoint.pt"
    torch.save({**torch.load(checkpoint, weights_only=True), "step": 0}, checkpoint)
    before = checkpoint.read_bytes()
    processes = run_in_two_processes("train", settings, code=flmm_with_file_limit(0, 20_000))
    assert_both_fail(processes, "make room and start again: the checkpoint before it stays")
    assert checkpoint.read_bytes() == before
    assert not list((workspace.folder / "run").glob(".*partial"))
    ended = run_in_process(["train", settings, "--json"], capsys)
    assert json.loads(ended.out)["steps"] == 2


def test_cache_that_one_process_cannot_write_ends_both_processes(
    workspace: TrainingWorkspace,
) -> None:
    settings = str(workspace.write_settings(cache="cache"))
    processes = run_in_two_processes("train", settings, code=flmm_with_file_limit(1, 3_000))
    assert_both_fail(processes, "make room and start again: the")
