"""`flmm train`: settings in, a head and its scores out."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from data_formats import FORMATS, Format
from PIL import Image
from safetensors.torch import load_file
from training_workspace import ONE_THREAD, TrainingWorkspace, make_workspace, max_difference, train

import flmm
from flmm.head.checkpoint import load_head


@pytest.fixture
def workspace(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingWorkspace:
    return make_workspace(tmp_path, tmp_path_factory)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.kind)
def test_every_data_format_trains_a_working_head_and_a_rerun_changes_nothing(
    form: Format, workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    form.write(workspace.folder / "set")
    entry = {
        name: f"set/{value}" if name in ("folder", "file", "pictures") else value
        for name, value in form.entry.items()
    }
    source = {"kind": form.kind, "name": "set", **entry}
    settings = workspace.write_settings(train=[source], validation=[source], epochs=1)
    ended = train(capsys, settings, "--json")
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert result["scores"]["phrases"] > 0
    assert 0 <= result["scores"]["refined_mean_iou"] <= 1
    again = train(capsys, settings, "--json")
    assert json.loads(again.out)["scores"] == result["scores"], "a finished run has nothing to do"
    picture = next(
        file for file in sorted((workspace.folder / "set").rglob("*.*g"))
        if "panoptic" not in str(file)
    )  # fmt: skip
    grounder = flmm.Grounder.from_pretrained(result["head"], device="cpu")
    answer = grounder.segment(picture, ["the grass"])
    assert answer.phrases[0].mask.shape == answer.size
    card = Path(result["head"], "README.md").read_text()
    assert f"| refined | {result['scores']['refined_cumulative_iou']:.3f} |" in card


def test_killed_run_resumes_bit_for_bit(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = workspace.write_settings(epochs=6)
    command = [sys.executable, "-m", "flmm.cli.main", "train", str(settings)]
    torch.set_num_threads(1)
    killed = subprocess.Popen(command, env=ONE_THREAD, stderr=subprocess.DEVNULL)
    log = workspace.folder / "run" / "log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) >= 4):
        assert killed.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert train(capsys, settings).code == 0
    assert train(capsys, settings, "--out", str(workspace.folder / "whole")).code == 0
    assert max_difference(workspace.load_weights("run"), workspace.load_weights("whole")) == 0
    logs = [
        [
            {name: value for name, value in json.loads(line).items() if name != "seconds"}
            for line in (workspace.folder / out / "log.jsonl").read_text().splitlines()
        ]
        for out in ("run", "whole")
    ]
    assert logs[0] == logs[1]
    heads = [
        load_file(workspace.folder / out / "head/model.safetensors") for out in ("run", "whole")
    ]
    assert max_difference(*heads) == 0


def test_two_processes_train_the_same_weights_as_one(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = workspace.write_settings(batch_size=5, micro_batch_size=1)
    ended = train(capsys, settings, "--json")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "-m", "flmm.cli.main", "train", str(settings), "--json",
        "--out", str(workspace.folder / "two"),
    ]  # fmt: skip
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, check=True)
    assert max_difference(workspace.load_weights("run"), workspace.load_weights("two")) <= 1e-5
    single, parallel = json.loads(ended.out)["scores"], json.loads(done.stdout)["scores"]
    assert parallel == pytest.approx(single, abs=1e-4)


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
    switches: dict[str, object], workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = workspace.write_settings(
        head={**workspace.settings["head"], **switches}, epochs=1, validation=[]
    )
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
    head = load_head(folder)
    assert head.mask_decoder.in_channels == head.config.num_maps
    grounder = flmm.Grounder.from_pretrained(folder, device="cpu")
    answer = grounder.segment(workspace.folder / "data" / "0.jpg", ["grass"])
    assert answer.phrases[0].mask.shape == answer.size


def test_wide_picture_trains_with_little_padding(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = Image.new("RGB", (120, 40), (10, 200, 10))
    wide.save(workspace.folder / "data" / "wide.png")
    line = {
        "image": "wide.png", "text": "Grass.",
        "phrases": [{"start": 0, "end": 5, "segmentation": [[0, 0, 60, 0, 60, 40, 0, 40]]}],
    }  # fmt: skip
    with (workspace.folder / "data" / "texts.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    ended = train(capsys, workspace.write_settings(epochs=1), "--json")
    assert json.loads(ended.out)["left_out"] == 0
    assert json.loads(ended.out)["padding"] < 0.1


def test_bfloat16_training_saves_averaged_weights(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = train(
        capsys, workspace.write_settings(average=0.9, epochs=1), "--mixed-precision", "bf16"
    )
    assert ended.code == 0, ended.err
    saved = load_file(workspace.folder / "run/head/model.safetensors")
    weights = workspace.load_weights("run")
    assert any(not torch.equal(saved[name], weight) for name, weight in weights.items())


def test_model_paths_are_relative_to_the_settings_and_bare_no_is_accepted(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, folder in (("lmm", workspace.settings["lmm"]), ("sam", workspace.settings["sam"])):
        (workspace.folder / part).symlink_to(folder)
    settings = workspace.write_settings(lmm="lmm", sam="sam", epochs=1)
    settings.write_text(settings.read_text() + "mixed_precision: no\n")
    ended = train(capsys, settings)
    assert ended.code == 0, ended.err


def test_each_validation_source_has_its_own_scores(
    workspace: TrainingWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = {"kind": "plain", "name": "held-out", "file": "held-out/texts.jsonl"}
    trained_on = {"kind": "plain", "name": "seen [b]", "file": "data/texts.jsonl", "limit": 3}
    settings = workspace.write_settings(epochs=1, validation=[held_out, trained_on])
    output = train(capsys, settings).out
    result = json.loads(train(capsys, settings, "--json").out)
    assert list(result["sources"]) == ["held-out", "seen [b]"]
    whole, parts = result["scores"], list(result["sources"].values())
    phrases = [part["phrases"] for part in parts]
    assert whole["phrases"] == sum(phrases)
    mean = sum(part["decoder_mean_iou"] * part["phrases"] for part in parts) / sum(phrases)
    assert whole["decoder_mean_iou"] == pytest.approx(mean)
    assert parts[0]["decoder_mean_iou"] != parts[1]["decoder_mean_iou"]
    card = Path(result["head"], "README.md").read_text()
    line = json.loads((workspace.folder / "run" / "log.jsonl").read_text().splitlines()[-1])
    for name, part in result["sources"].items():
        assert f"{name}, {part['phrases']} phrases" in output
        assert f"| {name}: {part['phrases']} phrases | cIoU | mIoU |" in card
        assert line[f"validation/{name}/decoder_mean_iou"] == part["decoder_mean_iou"]
    alone = train(
        capsys,
        workspace.write_settings(epochs=1),
        "--out",
        str(workspace.folder / "alone"),
        "--json",
    )
    assert json.loads(alone.out)["sources"]["held-out"] == pytest.approx(parts[0])
