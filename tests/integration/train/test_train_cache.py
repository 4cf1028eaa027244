"""Training from a feature cache: the same head, also when the cache is damaged."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from training_workspace import (
    ONE_THREAD,
    TrainingWorkspace,
    error_line,
    make_workspace,
    max_difference,
    train,
)

from flmm.train.fit import TrainingRun, fit
from flmm.train.training_state import TrainingProgress


@pytest.fixture
def workspace(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingWorkspace:
    return make_workspace(tmp_path, tmp_path_factory)


def test_cached_training_gives_the_same_weights(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = workspace.write_settings()
    assert train(capsys, settings).code == 0
    cache = workspace.folder / "cache"
    out = ("--out", str(workspace.folder / "cached"), "--cache", str(cache))
    assert train(capsys, settings, *out).code == 0
    # Cached values are rounded to half precision, by 1e-3 of a value; AdamW steps are 1e-3.
    assert (
        0 < max_difference(workspace.load_weights("run"), workspace.load_weights("cached")) < 5e-3
    )

    def shard_times() -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in cache.glob("*.safetensors")}

    first_times = shard_times()
    again = ("--out", str(workspace.folder / "again"), "--cache", str(cache))
    assert train(capsys, settings, *again).code == 0
    assert shard_times() == first_times, "cached pictures were computed again"
    assert max_difference(workspace.load_weights("cached"), workspace.load_weights("again")) == 0

    stale = train(capsys, settings, *again, "--protocol", "one-by-one")
    assert "protocol is 'together', now it is 'one-by-one'" in error_line(stale)

    shard = max(cache.glob("*.safetensors"), key=lambda file: file.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    shutil.rmtree(workspace.folder / "again")
    repaired = train(capsys, settings, *again, "--json")
    assert repaired.code == 0
    assert "is damaged; its pictures are made anew" in repaired.err
    assert json.loads(repaired.out)["left_out"] == 0, "a damaged shard leaves no picture out"
    assert max_difference(workspace.load_weights("cached"), workspace.load_weights("again")) == 0


def test_cache_deleted_during_training_is_filled_again(
    workspace: TrainingWorkspace,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = workspace.write_settings(cache="cache")

    def fit_without_shards(run: TrainingRun) -> TrainingProgress:
        for file in (workspace.folder / "cache").glob("*.safetensors"):
            file.unlink()
        return fit(run)

    with monkeypatch.context() as patch:
        patch.setattr("flmm.train.run.fit", fit_without_shards)
        message = error_line(train(capsys, settings))
        assert "cannot be read any more" in message
        assert "start again" in message
    assert train(capsys, settings).code == 0


def test_full_disk_while_caching_leaves_no_partial_files(workspace: TrainingWorkspace) -> None:
    settings = workspace.write_settings(cache="cache")
    # A limit on file size fails writes as a full disk does.
    limited_flmm = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "from flmm.cli.main import run; run()"
    )
    command = [sys.executable, "-c", limited_flmm, "train", str(settings)]
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "make room and start again" in done.stderr
    assert not list((workspace.folder / "cache").glob(".*partial"))
    assert not list((workspace.folder / "cache").glob("*.safetensors"))
