"""Training from a feature cache: the same head, whatever happens to the cache."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from training_place import ONE_THREAD, Place, make_place, refused, same, train

from flmm.train.fit import TrainingRun, fit
from flmm.train.training_state import TrainingProgress


@pytest.fixture
def place(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path, tmp_path_factory)


def test_from_a_cache_it_learns_the_same(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    settings = place.write()
    assert train(capsys, settings).code == 0
    cache = place.folder / "cache"
    out = ("--out", str(place.folder / "cached"), "--cache", str(cache))
    assert train(capsys, settings, *out).code == 0
    # Half precision: a thousandth of a value, and AdamW steps of a thousandth.
    assert 0 < same(place.state("run"), place.state("cached")) < 5e-3

    def shards() -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in cache.glob("*.safetensors")}

    made = shards()
    again = ("--out", str(place.folder / "again"), "--cache", str(cache))
    assert train(capsys, settings, *again).code == 0
    assert shards() == made, "what is cached is not made anew"
    assert same(place.state("cached"), place.state("again")) == 0

    stale = train(capsys, settings, *again, "--protocol", "one-by-one")
    assert "protocol is 'together', now it is 'one-by-one'" in refused(stale)

    victim = max(cache.glob("*.safetensors"), key=lambda file: file.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    shutil.rmtree(place.folder / "again")
    mended = train(capsys, settings, *again)
    assert mended.code == 0
    assert "is damaged; its pictures are made anew" in mended.err
    assert same(place.state("cached"), place.state("again")) == 0


def test_a_cache_that_goes_while_training_is_made_anew(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = place.write(cache="cache")

    def without_cache(run: TrainingRun) -> TrainingProgress:
        for file in (place.folder / "cache").glob("*.safetensors"):
            file.unlink()
        return fit(run)

    with monkeypatch.context() as broken:
        broken.setattr("flmm.train.run.fit", without_cache)
        message = refused(train(capsys, settings))
        assert "cannot be read any more" in message
        assert "start again" in message
    assert train(capsys, settings).code == 0


def test_a_full_disk_while_caching_loses_nothing(place: Place) -> None:
    settings = place.write(cache="cache")
    # Files may not grow beyond this, as if the disk were full: the caller is told by an error.
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "from flmm.cli.main import run; run()"
    )
    command = [sys.executable, "-c", limited, "train", str(settings)]
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "make room and start again" in done.stderr
    assert not list((place.folder / "cache").glob(".*partial"))
    assert not list((place.folder / "cache").glob("*.safetensors"))
