"""What the commands say of pictures that the embedded model does not know."""

import json
from pathlib import Path

import numpy as np
import pytest
from command import run_in_process
from PIL import Image

import flmm

QUESTION = "What is in the picture?"


@pytest.mark.parametrize(
    "arguments",
    [
        ("chat", QUESTION),
        ("ground", "A cat on grass."),
        ("segment", "a cat"),
        ("attend", QUESTION),
        ("think", QUESTION),
    ],
    ids=lambda arguments: arguments[0],
)
def test_embedded_model_says_once_that_it_does_not_know_a_picture(
    arguments: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, text = arguments
    values = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "scene.png")
    scene = str(tmp_path / "scene.png")
    ended = run_in_process([command, scene, text, "--json"], capsys)
    assert ended.code == 0
    json.loads(ended.out)
    assert ended.err.count("\n") == 1
    assert ended.err.startswith("flmm: the embedded model knows only pictures of its stickers: ")
    demo = str(Path(flmm.__file__).parent / "assets" / "pictures" / "demo.png")
    assert run_in_process([command, demo, text, "--json"], capsys).err == ""
