"""``flmm models --check``: what it says of models that are right, wrong or refused."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from command import run_in_process
from PIL import Image
from tiny_types import tiny_type_adapter
from torch import Tensor

from flmm.attention import recorder
from flmm.attention.attention_rows import compute_attention_rows
from flmm.attention.step_recorder import StepRecorder
from flmm.lmm.base import LMMAdapter
from flmm.lmm.families.qwen2_5_vl import Qwen25VLAdapter
from flmm.lmm.prompt import PictureLayout, ProcessedPicture
from flmm.model_check.places import check_places


def save(adapter: LMMAdapter, folder: Path) -> str:
    adapter.model.save_pretrained(folder)
    adapter.tokenizer.save_pretrained(folder)
    adapter.image_processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Qwen2.5-VL, which has a file of its own."""
    return save(Qwen25VLAdapter.build_tiny(), tmp_path_factory.mktemp("qwen"))


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def statuses(output: str) -> dict[str, str]:
    return {check["check"]: check["status"] for check in json.loads(output)["checks"]}


def test_every_check_of_a_family_with_a_file(qwen: str, capsys: pytest.CaptureFixture[str]) -> None:
    ended = run_in_process(["models", "--check", qwen], capsys)
    first, *checks, last = ended.out.splitlines()
    assert (ended.code, first) == (0, f"{qwen}: qwen2_5_vl, read by Qwen25VLAdapter")
    assert [line.split()[0] for line in checks] == ["ok"] * 6
    assert "those of Qwen2_5_VLProcessor" in checks[0]
    assert "640×640 pixels" in checks[1]
    assert last == "Figure: check-flmm.png"
    with Image.open("check-flmm.png") as figure:
        assert figure.height > figure.width > 500


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_generic_adapter_with_a_picture_of_the_user_s(
    dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tiny_type_adapter("exaone4_5").build_tiny(), tmp_path / "lmm")
    Image.radial_gradient("L").resize((90, 60)).save("mine.png")
    arguments = ["--picture", "mine.png", "--dtype", dtype, "--out", "grid.png", "--json"]
    ended = run_in_process(["models", "--check", folder, *arguments], capsys)
    content = json.loads(ended.out)
    assert (ended.code, content["passed"], content["dtype"]) == (0, True, dtype)
    assert set(statuses(ended.out).values()) == {"ok"}
    measured = {check["check"]: check["measured"] for check in content["checks"]}
    assert 0 < measured["recorded attention"]["max_difference"] <= 1e-5
    assert measured["answer"] == {"tokens": 20}
    (picture,) = content["pictures"]
    (view,) = picture["views"]
    assert (picture["size"], view["grid"]) == ([60, 90], [5, 7])
    assert view["tokens"] == [list(range(7 * row, 7 * row + 7)) for row in range(5)]
    assert content["figure"] == "grid.png"


def test_image_tokens_in_other_places_are_found(
    qwen: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Qwen25VLAdapter.layout

    def mirror(adapter: Qwen25VLAdapter, picture: ProcessedPicture) -> PictureLayout:
        found = layout(adapter, picture)
        (view,) = found.views
        mirrored = dataclasses.replace(view, token_positions=view.token_positions.flip(1))
        return PictureLayout(found.text, (mirrored,))

    monkeypatch.setattr(Qwen25VLAdapter, "layout", mirror)
    ended = run_in_process(["models", "--check", qwen], capsys)
    assert ended.code == 1
    wrong = [line for line in ended.out.splitlines() if line.startswith("NOT OK")]
    assert [line.split(":")[0] for line in wrong] == [
        f"NOT OK  image tokens of {size} pixels" for size in ("640×640", "960×640", "320×1280")
    ]
    assert "lie elsewhere than the layout says" in wrong[0]


def test_attention_that_is_recorded_wrongly_is_found(
    qwen: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        recorder,
        "compute_attention_rows",
        lambda *arguments, **options: compute_attention_rows(*arguments, **options) * 0.999,
    )
    ended = run_in_process(["models", "--check", qwen, "--json"], capsys)
    assert ended.code == 1
    assert statuses(ended.out)["recorded attention"] == "not ok"


def test_an_answer_that_recording_changes_is_found(
    qwen: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = StepRecorder.record_attention

    def disturb(self: StepRecorder, module: torch.nn.Module, query: Tensor, key: Tensor,
                *arguments: object, **options: object) -> None:  # fmt: skip
        record(self, module, query, key, *arguments, **options)  # type: ignore[arg-type]
        key.zero_()

    monkeypatch.setattr(StepRecorder, "record_attention", disturb)
    ended = run_in_process(["models", "--check", qwen, "--json"], capsys)
    assert ended.code == 1
    assert statuses(ended.out)["answer"] == "not ok"


def test_a_prompt_that_is_not_the_processor_s_is_found(
    qwen: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Qwen25VLAdapter.layout

    def add_a_word(adapter: Qwen25VLAdapter, picture: ProcessedPicture) -> PictureLayout:
        found = layout(adapter, picture)
        return PictureLayout(f"{found.text}picture", found.views)

    monkeypatch.setattr(Qwen25VLAdapter, "layout", add_a_word)
    ended = run_in_process(["models", "--check", qwen, "--json"], capsys)
    assert ended.code == 1
    assert statuses(ended.out)["prompt"] == "not ok"


def test_a_refused_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    ended = run_in_process(["models", "--check", str(tmp_path)], capsys)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "'llama'" in ended.err


def test_options_of_a_check_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    ended = run_in_process(["models", "--picture", "mine.png"], capsys)
    assert (ended.code, ended.out) == (2, "")
    assert "would ignore --picture" in ended.err


def test_image_features_that_layers_of_the_llm_add() -> None:
    adapter = tiny_type_adapter("granite4_vision").build_tiny()
    picture = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
    assert check_places(adapter, picture).status == "ok"
