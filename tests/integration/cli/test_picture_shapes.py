"""Pictures of extreme shapes: taken or refused as by the LMM's own image processor, on every route.

Qwen2-VL enlarges small pictures, and refuses those more than 200 times as long as wide.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from command import CommandResult, run_in_process
from PIL import Image
from serving import data_url, run_server
from tiny_grounding import tiny_head

from flmm.grounding.grounder import Grounder
from flmm.lmm.families.qwen2_vl import Qwen2VLAdapter
from flmm.serve.settings import ServerSettings

TAKEN = ((60, 50), (26, 28), (1, 1), (10, 2000))
REFUSED = ((4000, 10), (2000, 9), (3, 3000))
LMM = ("--lmm", "lmm", "--device", "cpu")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module", autouse=True)
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny Qwen2-VL and SAM, and a picture and a text of each shape."""
    folder = tmp_path_factory.mktemp("shapes")
    adapter = Qwen2VLAdapter.build_tiny()
    for part in (adapter.model, adapter.tokenizer, adapter.image_processor):
        part.save_pretrained(folder / "lmm")
    tiny_head().refiner.sam.save_pretrained(folder / "sam")
    lines = []
    (folder / "data").mkdir()
    for width, height in (*TAKEN, *REFUSED):
        name = f"{width}x{height}.png"
        Image.effect_noise((width, height), 90).convert("RGB").save(folder / "data" / name)
        whole = {"size": [height, width], "counts": [0, width * height]}
        phrases = [{"start": 0, "end": 5, "segmentation": whole}]
        lines.append(json.dumps({"image": name, "text": "A cat on grass.", "phrases": phrases}))
    (folder / "data" / "texts.jsonl").write_text("\n".join(lines))
    data = {"kind": "plain", "name": "shapes", "file": "data/texts.jsonl"}
    (folder / "shapes.yaml").write_text(yaml.safe_dump(data))
    settings = {
        "lmm": "lmm", "sam": "sam", "out": "run", "train": [data], "epochs": 1, "batch_size": 2,
        "device": "cpu", "cache": "features",
        "head": {"base_channels": 4, "stages": 3, "upsample_input": 16, "selector_width": 8},
    }  # fmt: skip
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def run(capsys: Capture, *arguments: str) -> CommandResult:
    ended = run_in_process([*arguments], capsys)
    assert ended.code == 0, ended.err
    return ended


def assert_refused_are_told(ended: CommandResult) -> None:
    """Each refused picture is told in one line of its own, and no other picture."""
    told = [line for line in ended.err.splitlines() if "image processor" in line]
    assert len(told) == len(REFUSED), ended.err
    for width, height in REFUSED:
        (line,) = (line for line in told if f"{width}x{height}.png" in line)
        assert f"{width}×{height} pixels" in line


def test_training_and_its_cache_leave_out_what_is_refused(capsys: Capture) -> None:
    ended = run(capsys, "train", "settings.yaml")
    assert_refused_are_told(ended)
    assert f"left out: {len(REFUSED)} pictures or texts" in " ".join(ended.out.split())
    cached = [
        picture
        for shard in Path("features").glob("*.shard.json")
        for picture in json.loads(shard.read_text())["pictures"]
    ]
    assert len(cached) == len(TAKEN)


def test_evaluation_counts_what_is_refused(capsys: Capture) -> None:
    ended = run(capsys, "evaluate", "shapes.yaml", *LMM, "--sam", "sam", "--out", "out", "--json")
    assert_refused_are_told(ended)
    report = json.loads(ended.out)
    assert (report["pictures"], report["skipped_pictures"]) == (len(TAKEN), len(REFUSED))


def test_calibration_leaves_out_what_is_refused(capsys: Capture) -> None:
    ended = run_in_process(["calibrate", "--data", "shapes.yaml", *LMM, "--out", "p.json"], capsys)
    assert_refused_are_told(ended)
    # That is about all phrases of the pictures that were taken: no head of random weights agrees.
    assert ended.code == 0 or "heads agrees with where phrases are" in ended.err


def test_report_leaves_out_what_is_refused(capsys: Capture) -> None:
    sizes = ("--scenes", "5", "--calibration", "1", "--training", "1")
    ended = run(
        capsys, "report", "ground", "--data", "shapes.yaml", *LMM, "--sam", "sam", *sizes,
        "--out", "report", "--work", "work",
    )  # fmt: skip
    assert_refused_are_told(ended)


def test_batch_goes_on_after_what_is_refused(capsys: Capture) -> None:
    arguments = ("What?", *LMM, "--sam", "sam", "--max-new-tokens", "4", "--out", "results.jsonl")
    ended = run_in_process(["batch", "data", *arguments], capsys)
    results = [json.loads(line) for line in Path("results.jsonl").read_text().splitlines()]
    errors = {result["task"]["image"]: result.get("error") for result in results}
    assert len(errors) == len(TAKEN) + len(REFUSED), ended.err
    for width, height in REFUSED:
        assert f"{width}×{height} pixels" in str(errors[f"{width}x{height}.png"])
    assert sum(error is None for error in errors.values()) == len(TAKEN)


@pytest.mark.parametrize(
    "command",
    [("chat", "What?"), ("segment", "cat"), ("ground", "A cat."), ("attend", "A cat."),
     ("think", "What?")],
)  # fmt: skip
def test_commands_refuse_in_one_line(command: tuple[str, str], capsys: Capture) -> None:
    name, text = command
    sam = () if name == "attend" else ("--sam", "sam")
    for width, height in REFUSED:
        arguments = [name, f"data/{width}x{height}.png", text, *LMM, *sam]
        ended = run_in_process(arguments, capsys)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.startswith("flmm: ")
        assert f"{width}×{height} pixels" in ended.err
        assert ended.err.count("\n") == 1


def test_server_refuses_with_the_reason(workspace: Path) -> None:
    grounder = Grounder.from_pretrained(lmm="lmm", sam="sam", device="cpu")
    with run_server(grounder, ServerSettings(port=0)) as address:
        for width, height in (*TAKEN, *REFUSED):
            content = (workspace / "data" / f"{width}x{height}.png").read_bytes()
            body = {"image": data_url(content), "phrases": ["cat"]}
            answer = httpx.post(f"{address}/v1/segment", json=body, timeout=60)
            if (width, height) in TAKEN:
                assert answer.status_code == 200, answer.text
                assert answer.json()["size"] == [height, width]
            else:
                assert answer.status_code == 400
                assert f"{width}×{height} pixels" in answer.json()["error"]["message"]
