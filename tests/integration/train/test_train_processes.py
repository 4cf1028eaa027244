"""Training in two processes: what fails in one of them ends both, with nothing lost."""

import json
from pathlib import Path

import pytest
import torch
from command import Ended, in_process, in_two_processes
from training_place import Place, make_place


@pytest.fixture
def place(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path, tmp_path_factory)


def no_room(rank: int, size: int) -> str:
    """`flmm` where one process may write no file larger than so many bytes."""
    return f"""
import os, resource, signal
if os.environ["RANK"] == "{rank}":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
from flmm.cli.main import run
run()
"""


def both_say(both: list[Ended], line: str) -> None:
    for ended in both:
        assert (ended.code, ended.out) == (2, ""), ended.err
        assert line in ended.err.splitlines()[-1]
        assert "Traceback" not in ended.err


def test_a_checkpoint_that_cannot_be_written_ends_both(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = str(place.write(epochs=1, validation=[]))
    assert in_process(["train", settings], capsys).code == 0
    # As if the run had stopped at its beginning: its first step ends with a checkpoint.
    checkpoint = place.folder / "run" / "checkpoint.pt"
    torch.save({**torch.load(checkpoint, weights_only=True), "step": 0}, checkpoint)
    before = checkpoint.read_bytes()
    both = in_two_processes("train", settings, code=no_room(0, 20_000))
    both_say(both, "make room and start again: the checkpoint before it stays")
    assert checkpoint.read_bytes() == before
    assert not list((place.folder / "run").glob(".*partial"))
    ended = in_process(["train", settings, "--json"], capsys)
    assert json.loads(ended.out)["steps"] == 2


def test_a_cache_that_one_process_cannot_write_ends_both(place: Place) -> None:
    settings = str(place.write(cache="cache"))
    both = in_two_processes("train", settings, code=no_room(1, 3_000))
    both_say(both, "make room and start again: the")
