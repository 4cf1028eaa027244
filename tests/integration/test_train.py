"""`flmm train` as a researcher uses it: settings in, a head and its figures out."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import pytest
import torch
import yaml
from command import Ended, in_process
from data_formats import FORMATS, Format
from PIL import Image
from safetensors.torch import load_file
from tiny_grounding import save_lmm, tiny_head

import flmm
from flmm.data.fixtures import write_plain
from flmm.model import GroundingHead

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


class Settings(TypedDict, total=False):
    lmm: str
    sam: str
    out: str
    train: list[dict[str, str | int]]
    validation: list[dict[str, str | int]]
    head: dict[str, object]


@dataclass(frozen=True)
class Place:
    """A folder with models, data and settings."""

    folder: Path
    settings: Settings

    def write(self, **changes: object) -> Path:
        file = self.folder / "settings.yaml"
        file.write_text(yaml.safe_dump({**self.settings, **changes}))
        return file

    def state(self, out: str) -> dict[str, torch.Tensor]:
        content = torch.load(self.folder / out / "checkpoint.pt", weights_only=True)
        weights: dict[str, torch.Tensor] = content["weights"]
        return weights


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_lmm(folder / "lmm")
    tiny_head().refiner.sam.save_pretrained(folder / "sam")
    write_plain(folder / "data", 6)
    write_plain(folder / "held-out", 2, 50)
    return folder


@pytest.fixture
def place(models: Path, tmp_path: Path) -> Place:
    for name in ("data", "held-out"):
        shutil.copytree(models / name, tmp_path / name)
    settings: Settings = {
        "lmm": str(models / "lmm"),
        "sam": str(models / "sam"),
        "out": "run",
        "train": [{"kind": "plain", "name": "plain", "file": "data/texts.jsonl"}],
        "validation": [{"kind": "plain", "name": "held-out", "file": "held-out/texts.jsonl"}],
        "head": {"base_channels": 4, "stages": 3, "upsample_input": 16, "selector_width": 8},
    }
    training = {
        "epochs": 2, "batch_size": 3, "micro_batch_size": 2, "learning_rate": 1e-3, "device": "cpu",
        "log_every": 1, "checkpoint_every": 1,
    }  # fmt: skip
    return Place(tmp_path, {**settings, **training})  # type: ignore[typeddict-item]


def train(capsys: pytest.CaptureFixture[str], settings: Path, *flags: str) -> Ended:
    return in_process(["train", str(settings), *flags], capsys)


def refused(ended: Ended) -> str:
    """The one line that says what is wrong."""
    assert ended.code == 2
    lines = [line for line in ended.err.splitlines() if "loss" not in line.split(":")[-1][:6]]
    assert lines[-1].startswith("flmm: ")
    return lines[-1]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.kind)
def test_every_format_trains_goes_on_and_makes_a_head_that_works(
    form: Format, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    form.write(place.folder / "set")
    entry = {
        name: f"set/{value}" if name in ("folder", "file", "pictures") else value
        for name, value in form.entry.items()
    }
    source = {"kind": form.kind, "name": "set", **entry}
    settings = place.write(train=[source], validation=[source], epochs=1)
    ended = train(capsys, settings, "--json")
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert result["scores"]["phrases"] > 0
    assert 0 <= result["scores"]["refined_mean_iou"] <= 1
    again = train(capsys, settings, "--json")
    assert json.loads(again.out)["scores"] == result["scores"], "a finished run has nothing to do"
    picture = next(
        file for file in sorted((place.folder / "set").rglob("*.*g"))
        if "panoptic" not in str(file)
    )  # fmt: skip
    grounder = flmm.Grounder.from_pretrained(result["head"], device="cpu")
    answer = grounder.segment(picture, ["the grass"])
    assert answer.phrases[0].mask.shape == answer.size
    card = Path(result["head"], "README.md").read_text()
    assert f"| refined | {result['scores']['refined_cumulative_iou']:.3f} |" in card


def test_killed_at_any_moment_it_goes_on_bit_for_bit(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = place.write(epochs=6)
    command = [sys.executable, "-m", "flmm.cli.main", "train", str(settings)]
    torch.set_num_threads(1)
    killed = subprocess.Popen(command, env=ONE_THREAD, stderr=subprocess.DEVNULL)
    log = place.folder / "run" / "log.jsonl"
    until = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) >= 4):
        assert killed.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert train(capsys, settings).code == 0
    assert train(capsys, settings, "--out", str(place.folder / "whole")).code == 0
    assert same(place.state("run"), place.state("whole")) == 0
    logs = [
        [
            {name: value for name, value in json.loads(line).items() if name != "seconds"}
            for line in (place.folder / out / "log.jsonl").read_text().splitlines()
        ]
        for out in ("run", "whole")
    ]
    assert logs[0] == logs[1]
    heads = [load_file(place.folder / out / "head/model.safetensors") for out in ("run", "whole")]
    assert same(*heads) == 0


def test_two_processes_learn_what_one_does(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = place.write(batch_size=5, micro_batch_size=1)
    ended = train(capsys, settings, "--json")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "-m", "flmm.cli.main", "train", str(settings), "--json",
        "--out", str(place.folder / "two"),
    ]  # fmt: skip
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, check=True)
    assert same(place.state("run"), place.state("two")) <= 1e-5
    alone, together = json.loads(ended.out)["scores"], json.loads(done.stdout)["scores"]
    assert together == pytest.approx(alone, abs=1e-4)


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


@pytest.mark.parametrize(
    "switches",
    [
        {"heads": 5},
        {"layers": [0, 2]},
        {"refine": False},
        {"use_mask": False},
        {"use_box": False},
        {"use_text": False},
        {"merge": "max"},
        {"normalise": False},
        {"selector": False},
        {"upsample_input": 8},
    ],
    ids=str,
)
def test_every_ablation_trains_and_its_head_works(
    switches: dict[str, object], place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = place.write(head={**place.settings["head"], **switches}, epochs=1, validation=[])
    ended = train(capsys, settings, "--json")
    assert ended.code == 0, ended.err
    folder = json.loads(ended.out)["head"]
    config = json.loads(Path(folder, "config.json").read_text())
    if "heads" in switches:
        assert len(config["kept_maps"]) == 5
    elif "layers" in switches:
        assert config["kept_maps"] == [0, 1, 2, 3, 8, 9, 10, 11]
    else:
        assert {name: config[name] for name in switches} == switches
    head = GroundingHead.from_pretrained(folder)
    assert head.mask_decoder.in_channels == head.config.maps
    grounder = flmm.Grounder.from_pretrained(folder, device="cpu")
    answer = grounder.segment(place.folder / "data" / "0.jpg", ["grass"])
    assert answer.phrases[0].mask.shape == answer.size


def test_bfloat16_average_and_tracker(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    settings = place.write(average=0.9, epochs=1)
    ended = train(capsys, settings, "--mixed-precision", "bf16", "--tracker", "tensorboard")
    assert ended.code == 0, ended.err
    assert list((place.folder / "run").rglob("events.out.tfevents.*"))
    kept = load_file(place.folder / "run/head/model.safetensors")
    weights = place.state("run")
    assert any(not torch.equal(kept[name], weight) for name, weight in weights.items())


def test_what_cannot_be_read_is_told_counted_and_left_out(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (place.folder / "data" / "1.jpg").unlink()
    whole = (place.folder / "data" / "2.jpg").read_bytes()
    (place.folder / "data" / "2.jpg").write_bytes(whole[: len(whole) // 2])
    ended = train(capsys, place.write(), "--json")
    assert ended.code == 0
    assert json.loads(ended.out)["left_out"] == 2
    for name in ("1.jpg", "2.jpg"):
        assert sum(f"{name}'" in line for line in ended.err.splitlines()) == 1


def test_nothing_to_learn_from_is_a_mistake(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    for picture in (place.folder / "data").glob("*.jpg"):
        picture.unlink()
    assert "none of the 6 pictures can be learned from" in refused(train(capsys, place.write()))


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_checkpoint(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = place.write(epochs=8)
    ended = train(capsys, settings, "--learning-rate", "1e30")
    assert "lower learning_rate (1e+30)" in refused(ended)
    assert all(weight.isfinite().all() for weight in place.state("run").values())


def test_a_picture_twice_as_wide_learns_beside_others(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = Image.new("RGB", (120, 40), (10, 200, 10))
    wide.save(place.folder / "data" / "wide.png")
    line = {
        "image": "wide.png", "text": "Grass.",
        "phrases": [{"start": 0, "end": 5, "segmentation": [[0, 0, 60, 0, 60, 40, 0, 40]]}],
    }  # fmt: skip
    with (place.folder / "data" / "texts.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    ended = train(capsys, place.write(epochs=1), "--json")
    assert json.loads(ended.out)["left_out"] == 0
    assert json.loads(ended.out)["padding"] < 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs: Input should be greater than or equal to 1"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"train": []}, "train: "),
        ({"speed": 3}, "speed: Extra inputs are not permitted"),
        ({"lmm": "/nowhere/lmm"}, "/nowhere/lmm"),
        ({"head": {"heads": 5000}}, "heads is 5000; this LMM has 12 maps"),
        ({"head": {"layers": [7]}}, "layers are [7]; choose some of 0..2"),
        ({"head": {"heads": 3, "layers": [0]}}, "both layers and heads"),
        ({"train": [{"kind": "plain", "name": "x", "file": "none.jsonl"}]}, "none.jsonl"),
        ({"tracker": "paper"}, "tracker"),
        ({"device": "cuda:1"}, "choose the GPU with CUDA_VISIBLE_DEVICES"),
    ],
)
def test_mistakes_get_one_line(
    changes: dict[str, object], message: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(train(capsys, place.write(**changes)))


def test_damaged_settings_and_checkpoints_get_one_line(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = place.write()
    assert train(capsys, settings).code == 0
    assert "learning_rate was 0.001" in refused(train(capsys, settings, "--learning-rate", "0.01"))
    checkpoint = place.folder / "run" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert "is damaged; delete it" in refused(train(capsys, settings))
    settings.write_text("lmm: [")
    assert "not YAML" in refused(train(capsys, settings))
    settings.write_text("- 3")
    assert "hold no entries" in refused(train(capsys, settings))
    assert "cannot be read" in refused(train(capsys, place.folder / "none.yaml"))
