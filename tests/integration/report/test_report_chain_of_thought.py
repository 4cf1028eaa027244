"""``flmm report chain-of-thought``: what is asked, what is looked at again, what is counted."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import in_process
from PIL import Image
from tiny_grounding import tiny_head
from torch import nn

from flmm.answers.answer import Phrase
from flmm.cli.report import ClaimName, read_data_source, select_claims
from flmm.data.fixtures import write_plain
from flmm.errors import InputError
from flmm.grounding.chain_of_thought import CropMode, ThinkOptions
from flmm.grounding.grounder import Grounder
from flmm.grounding.mask_predictor import MaskPredictor
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.prompt import Prompt
from flmm.pictures.geometry import square_box_around
from flmm.report.chain_of_thought import measurement as chain_of_thought
from flmm.report.chain_of_thought.measurement import (
    CROP_MODES,
    LOCATE_SOURCES,
    RegionSource,
    measure,
)
from flmm.report.chain_of_thought.tag_questions import (
    TagQuestion,
    build_tag_questions,
    parse_number,
)
from flmm.report.claims import CLAIMS
from flmm.report.context import ReportContext
from flmm.report.data import read_source_data, read_sticker_data
from flmm.report.overlaps import Interval, mean_interval

CLOSER_LOOKS: list[tuple[RegionSource, CropMode]] = [
    *((locate, crop) for locate in LOCATE_SOURCES for crop in CROP_MODES),
    ("truth", "box"),
]


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return Grounder(LlavaAdapter.build_tiny(), tiny_head())


def build_context(grounder: Grounder, folder: Path, scenes: int = 2) -> ReportContext:
    data = read_sticker_data(folder / "scenes", scenes, 1, 1)
    return ReportContext(grounder, data, folder / "work", pytest.fail, lambda *_: None)


@pytest.fixture
def small_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is located is small, which a random head's masks are not."""
    ground = MaskPredictor.predict

    def cut(masks: MaskPredictor, picture: Image.Image, *rest: Any) -> tuple[Phrase, ...]:
        inside = np.zeros((picture.height, picture.width), dtype=np.bool_)
        inside[100:140, 200:260] = True
        return tuple(
            replace(phrase, mask=inside, box=(200, 100, 260, 140))
            for phrase in ground(masks, picture, *rest)
        )

    monkeypatch.setattr(MaskPredictor, "predict", cut)


@pytest.fixture
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random LMM says as much as it may."""
    monkeypatch.setattr(chain_of_thought, "MAX_NEW_TOKENS", 8)


@pytest.fixture
def question() -> TagQuestion:
    """Of a scene with several things."""
    return next(one for one in build_tag_questions(9) if len(one.drawing.scene.things) > 2)


def test_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = ("--scenes", "2", "--calibration", "1", "--training", "1", "--device", "cpu")
    ended = in_process(["report", "chain-of-thought", *sizes, "--out", "made"], capsys)
    assert ended.code == 0, ended.err
    page = Path("made.md").read_text()
    for name in ("chain-of-thought", "chain-of-thought-examples"):
        assert f"](made/{name}.png)" in page
        with Image.open(Path("made") / f"{name}.png") as figure:
            assert figure.width > 1000
    content = json.loads(Path("made/chain-of-thought.json").read_text())
    results = content["results"]
    assert results["questions"] == 2
    assert [(way["locate"], way["crop"]) for way in results["ways"]] == CLOSER_LOOKS
    for way in results["ways"]:
        gain = way["right"]["value"] - results["plain"]["value"]
        assert way["gain"]["value"] == pytest.approx(gain)
        assert (way["over_random"] is None) == (way["crop"] == "random" or way["locate"] == "truth")
    # Each of the two tables has a line of titles and one of dashes; plain answers have a row.
    assert page.count("\n| ") == 2 + 1 + len(CLOSER_LOOKS) + 2 + len(LOCATE_SOURCES)


@pytest.mark.usefixtures("small_masks", "short_answers")
def test_crops_match_think(
    grounder: Grounder, question: TagQuestion, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[Image.Image] = []
    said: list[str] = []
    prepare = grounder.adapter.build_prompt

    def spied(pictures: Image.Image | Sequence[Image.Image], asked: str) -> Prompt:
        assert asked == question.turn.question
        if not isinstance(pictures, Image.Image):
            whole, part = pictures
            assert np.array_equal(np.asarray(whole), question.drawing.picture)
            parts.append(part)
        return prepare(pictures, asked)

    with monkeypatch.context() as patched:
        patched.setattr(grounder.adapter, "build_prompt", spied)
        patched.setattr(chain_of_thought, "parse_number", said.append)
        outcome = chain_of_thought.answer_question(grounder, question, 3)
    assert list(outcome.right) == CLOSER_LOOKS
    shown = dict(zip(CLOSER_LOOKS, (np.asarray(part) for part in parts), strict=True))
    plain, *after = said
    texts = dict(zip(CLOSER_LOOKS, after, strict=True))

    assert plain == grounder.chat(question.picture, question.turn.question, max_new_tokens=8).text
    for locate in LOCATE_SOURCES:
        for crop in CROP_MODES:
            thought = grounder.think(
                question.picture, question.turn.question, locate=locate, crop=crop, seed=3,
                max_new_tokens=8,
            )  # fmt: skip
            assert thought.located is not None
            assert np.array_equal(shown[locate, crop], np.asarray(thought.crop))
            assert texts[locate, crop] == thought.answer.text
        assert shown[locate, "random"].shape == shown[locate, "box"].shape
        assert not np.array_equal(shown[locate, "random"], shown[locate, "box"])
        assert not np.array_equal(shown[locate, "mask"], shown[locate, "box"])

    (thing,) = question.turn.mentions[0].things
    rows, columns = np.nonzero(question.drawing.thing_masks[thing])
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    x0, y0, x1, y1 = square_box_around(box, ThinkOptions().margin, (384, 384))
    assert np.array_equal(shown["truth", "box"], question.drawing.picture[y0:y1, x0:x1])
    assert x1 - x0 < 384


def test_scores_are_computed_from_outcomes(
    grounder: Grounder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four questions: one right plainly; boxes from answers help three, random ones none."""

    def answered(_grounder: Grounder, question: TagQuestion, place: int) -> object:
        right = {way: way == ("truth", "box") for way in CLOSER_LOOKS}
        right["answer", "box"] = place != 0
        right["answer", "random"] = place == 3
        return chain_of_thought.QuestionOutcome(
            number=question.number if place else 5,
            plain=place == 3,
            right=right,
            nothing={"answer": place == 0, "question": False},
            right_thing={"answer": place > 1, "question": True},
        )

    monkeypatch.setattr(chain_of_thought, "answer_question", answered)
    found = measure(build_context(grounder, tmp_path, scenes=4))
    assert found.questions == 4
    assert found.plain.value == 25
    assert found.plain.low <= 25 <= found.plain.high
    ways = {(way.locate, way.crop): way for way in found.ways}
    box = ways["answer", "box"]
    assert (box.right.value, box.gain.value) == (75, 50)
    assert box.over_random is not None
    assert box.over_random.value == 50
    assert 0 <= box.gain.low < 50 < box.gain.high <= 100
    assert ways["answer", "random"].gain == Interval(0, 0, 0)
    assert ways["answer", "random"].over_random is None
    assert ways["question", "mask"].gain.value == -25
    assert ways["truth", "box"].right == Interval(100, 100, 100)
    located = {one.locate: (one.nothing.value, one.right_thing.value) for one in found.locating}
    assert located == {"answer": (25, 50), "question": (0, 100)}
    numbers = [5, *(one.number for one in build_tag_questions(4)[1:])]
    assert found.chance == 25 * max(numbers.count(one) for one in numbers)


@pytest.mark.usefixtures("short_answers")
def test_right_thing_is_located(grounder: Grounder, question: TagQuestion) -> None:
    truth = chain_of_thought._ground_truth_phrase(question)
    assert f"on {truth.text}?" in question.turn.question
    assert chain_of_thought._locates_right_thing(truth, question)
    other = next(one for one in build_tag_questions(9) if not (one.mask & question.mask).any())
    assert not chain_of_thought._locates_right_thing(
        chain_of_thought._ground_truth_phrase(other), question
    )
    head = tiny_head()
    head.config = type(head.config)(**{**vars(head.config), "refine": False})
    classifier = head.mask_decoder.classifier
    nn.init.zeros_(classifier.weight)
    assert classifier.bias is not None
    nn.init.constant_(classifier.bias, -5)
    blind = chain_of_thought.answer_question(Grounder(grounder.adapter, head), question, 0)
    assert blind.nothing == dict.fromkeys(LOCATE_SOURCES, True)
    assert blind.right_thing == dict.fromkeys(LOCATE_SOURCES, False)


def test_questions() -> None:
    questions = build_tag_questions(12)
    assert len(questions) == 12
    assert [one.turn for one in questions[:3]] == [one.turn for one in build_tag_questions(3)]
    for one in questions:
        assert one.turn.answer.endswith(f" is {one.number}.")
        assert one.turn.question.startswith("What number is on the ")
        assert parse_number(one.turn.answer) == one.number
        (thing,) = one.turn.mentions[0].things
        assert np.array_equal(one.mask, one.drawing.thing_masks[thing])


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("The number on the cat is 5.", 5),
        ("Of 3 cats, it is the one with 7", 7),
        ("It is Seven.", 7),
        ("12", 12),
        ("A cat, someone said.", None),
        ("", None),
    ],
)
def test_numbers_in_answers(answer: str, number: int | None) -> None:
    assert parse_number(answer) == number


def test_intervals() -> None:
    assert mean_interval(torch.ones(5)) == Interval(100, 100, 100)
    half = mean_interval(torch.tensor([0.0, 1.0] * 50))
    assert half.value == 50
    # That of a binomial share, within the resampling's own error.
    assert half.low == pytest.approx(40.2, abs=1.5)
    assert half.high == pytest.approx(59.8, abs=1.5)


@pytest.fixture
def other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_plain(Path("plain"), 6)
    file = Path("mine.yaml")
    file.write_text("{kind: plain, name: mine, file: plain/texts.jsonl}\n")
    return file


def test_other_data_are_refused(other_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--calibration", "2", "--training", "2", "--device", "cpu")
    # Before anything else is measured.
    named = ["report", "conversation", "chain-of-thought", "--data", str(other_data), *sizes]
    ended = in_process(named, capsys)
    assert ended.code == 2
    assert "data 'mine' have no numbers on tags" in ended.err.splitlines()[-1]
    assert not Path("docs/report/conversation.json").exists()


def test_unsuitable_claims_are_left_out_by_default(grounder: Grounder, other_data: Path) -> None:
    told: list[str] = []
    data = read_source_data(read_data_source(other_data), other_data.parent, 2, 2, 2)
    bench = ReportContext(grounder, data, Path("work"), told.append, lambda *_: None)
    left_out = {ClaimName.SEGMENTATION_TOKEN, ClaimName.CHAIN_OF_THOUGHT}
    assert select_claims(None, bench) == [claim for claim in ClaimName if claim not in left_out]
    assert select_claims([ClaimName.WHERE], bench) == [ClaimName.WHERE]
    with pytest.raises(InputError, match="have no numbers on tags"):
        CLAIMS["chain-of-thought"].run(bench, Path("out"))
    assert not Path("out").exists()


def test_an_lmm_that_takes_one_picture_is_refused(tmp_path: Path) -> None:
    adapter = LlavaAdapter.build_tiny()
    adapter.tokenizer.chat_template = (
        "{% for m in messages %}<image>{{ m['content'][-1]['text'] }}{% endfor %} ASSISTANT:"
    )
    bench = build_context(Grounder(adapter, tiny_head()), tmp_path)
    with pytest.raises(InputError, match="'tiny-llava' cannot be shown a picture and a part"):
        select_claims([ClaimName.CHAIN_OF_THOUGHT], bench)
    assert ClaimName.CHAIN_OF_THOUGHT not in select_claims(None, bench)


def test_claims_that_suit_sticker_scenes(grounder: Grounder, tmp_path: Path) -> None:
    suited = select_claims(None, build_context(grounder, tmp_path))
    # Copies learn by the recipe of the embedded LMM, which this one is not.
    assert suited == [one for one in ClaimName if one != ClaimName.SEGMENTATION_TOKEN]
