"""Answers in a pipeline of one's own: batches of rows, as Ray Data hands them to actors."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny_grounding import save_lmm, save_tiny_head

import flmm
from flmm.batch import GroundingActor
from flmm.batch.job import ModelNames
from flmm.batch.settings import BatchSettings
from flmm.errors import InputError

QUESTION = "What is on the grass?"


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models")
    return str(save_tiny_head(folder / "head", str(save_lmm(folder / "lmm"))))


@pytest.fixture(scope="module")
def actor(head: str) -> GroundingActor:
    return GroundingActor(ModelNames(head), BatchSettings(QUESTION, max_new_tokens=3), together=1)


def objects(*values: object) -> NDArray[np.object_]:
    column = np.full(len(values), None, dtype=object)
    column[:] = values
    return column


def test_rows_of_all_kinds(actor: GroundingActor, head: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    file = tmp_path / "a.png"
    Image.fromarray(pixels).save(file)
    images = objects(
        str(file), file.read_bytes(), {"bytes": None, "path": str(file)}, str(file), b"broken",
        str(file), None,
    )  # fmt: skip
    batch = {
        "image": images,
        "questions": objects(None, None, None, np.array(["A?", "B?"]), None, None, None),
        "phrases": objects(None, None, None, None, None, np.array([]), None),
        "number": np.arange(7),
    }
    rows = actor(batch)
    assert rows["number"].tolist() == [*range(7)]
    assert [error is None for error in rows["error"]] == [True] * 4 + [False] * 3
    assert [answer is None for answer in rows["answer"]] == [False] * 4 + [True] * 3
    expected = flmm.Grounder.from_pretrained(head).chat(file, QUESTION, max_new_tokens=3)
    for row in range(3):
        answer = json.loads(rows["answer"][row])
        assert {**answer, "timings": None} == {**expected.to_dict(), "timings": None}
    assert len(json.loads(rows["answer"][3])) == 2
    assert "phrases" in rows["error"][5]
    assert "give a path" in rows["error"][6]


def test_pictures_as_one_array(actor: GroundingActor) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 20, 24, 3), dtype=np.uint8)
    rows = actor({"image": pictures, "phrases": np.array([["a cat"], ["grass"]])})
    assert rows["error"].tolist() == [None, None]
    answers = [json.loads(answer) for answer in rows["answer"]]
    assert [answer["phrases"][0]["text"] for answer in answers] == ["a cat", "grass"]


def test_a_batch_without_pictures_is_refused(actor: GroundingActor) -> None:
    with pytest.raises(InputError, match="no column 'image'"):
        actor({"picture": np.array(["a.png"])})
