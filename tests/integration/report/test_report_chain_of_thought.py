"""``flmm report chain-of-thought``: questions, crops, scores, and unsuitable inputs."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import run_in_process
from PIL import Image
from tiny_grounding import tiny_head
from torch import nn

from flmm.answers.phrase import Phrase
from flmm.answers.run_lengths import encode_rle
from flmm.cli.report import ClaimName, read_data_source, select_claims
from flmm.data.fixtures import write_plain
from flmm.errors import InputError
from flmm.evaluate.answers.ways import LOCATE_SOURCES, CloserLook, RegionSource
from flmm.grounding.chain_of_thought import CropMode, ThinkOptions
from flmm.grounding.grounder import Grounder
from flmm.grounding.mask_predictor import MaskPredictor
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.message import Message
from flmm.lmm.prompt import Prompt
from flmm.pictures.geometry import square_box_around
from flmm.report.chain_of_thought import measurement as chain_of_thought
from flmm.report.chain_of_thought.measurement import measure
from flmm.report.chain_of_thought.tag_questions import (
    TagQuestion,
    build_tag_questions,
    parse_number,
)
from flmm.report.claims import CLAIMS
from flmm.report.context import ReportContext
from flmm.report.data import read_source_data, read_sticker_data
from flmm.report.overlaps import Interval, mean_interval

CROP_MODES: tuple[CropMode, ...] = ("box", "mask", "random")
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
    """Make located masks small, which those of a random head are not."""
    predict = MaskPredictor.predict

    def small(predictor: MaskPredictor, picture: Image.Image, *rest: Any) -> tuple[Phrase, ...]:
        inside = np.zeros((picture.height, picture.width), dtype=np.bool_)
        inside[100:140, 200:260] = True
        return tuple(
            replace(phrase, rle=encode_rle(inside), box=(200, 100, 260, 140))
            for phrase in predict(predictor, picture, *rest)
        )

    monkeypatch.setattr(MaskPredictor, "predict", small)


@pytest.fixture
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit answers: a random LMM generates as many tokens as allowed."""
    monkeypatch.setattr(chain_of_thought, "MAX_NEW_TOKENS", 8)


@pytest.fixture
def question() -> TagQuestion:
    """A question about a scene with several things."""
    return next(tag for tag in build_tag_questions(9) if len(tag.drawing.scene.things) > 2)


def test_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = ("--scenes", "2", "--calibration", "1", "--training", "1", "--device", "cpu")
    ended = run_in_process(["report", "chain-of-thought", *sizes, "--out", "made"], capsys)
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
    answers: list[str] = []
    build_prompt = grounder.adapter.build_prompt

    def record_part(
        pictures: Image.Image | Sequence[Image.Image], text: str, history: Sequence[Message] = ()
    ) -> Prompt:
        assert text == question.turn.question
        if not isinstance(pictures, Image.Image) and len(pictures) > 1:
            whole, part = pictures
            assert np.array_equal(np.asarray(whole), question.drawing.picture)
            parts.append(part)
        return build_prompt(pictures, text, history=history)

    with monkeypatch.context() as patched:
        patched.setattr(grounder.adapter, "build_prompt", record_part)
        patched.setattr(chain_of_thought, "parse_number", answers.append)
        outcome = chain_of_thought.answer_question(grounder, question, 3)
    assert [(look.locate, look.crop) for look in outcome.right] == CLOSER_LOOKS
    shown = dict(zip(CLOSER_LOOKS, (np.asarray(part) for part in parts), strict=True))
    plain, *after = answers
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
    """Four questions: one right plainly, three with the answer's box, one with a random box."""

    def build_outcome(_grounder: Grounder, question: TagQuestion, index: int) -> object:
        right = {CloserLook(*way): way == ("truth", "box") for way in CLOSER_LOOKS}
        right[CloserLook("answer", "box")] = index != 0
        right[CloserLook("answer", "random")] = index == 3
        return chain_of_thought.QuestionOutcome(
            number=question.number if index else 5,
            plain=index == 3,
            right=right,
            nothing={"answer": index == 0, "question": False},
            right_thing={"answer": index > 1, "question": True},
        )

    monkeypatch.setattr(chain_of_thought, "answer_question", build_outcome)
    results = measure(build_context(grounder, tmp_path, scenes=4))
    assert results.questions == 4
    assert results.plain.value == 25
    assert results.plain.low <= 25 <= results.plain.high
    ways = {(way.locate, way.crop): way for way in results.ways}
    box = ways["answer", "box"]
    assert (box.right.value, box.gain.value) == (75, 50)
    assert box.over_random is not None
    assert box.over_random.value == 50
    assert 0 <= box.gain.low < 50 < box.gain.high <= 100
    assert ways["answer", "random"].gain == Interval(0, 0, 0)
    assert ways["answer", "random"].over_random is None
    assert ways["question", "mask"].gain.value == -25
    assert ways["truth", "box"].right == Interval(100, 100, 100)
    located = {
        score.locate: (score.nothing.value, score.right_thing.value) for score in results.locating
    }
    assert located == {"answer": (25, 50), "question": (0, 100)}
    numbers = [5, *(question.number for question in build_tag_questions(4)[1:])]
    assert results.chance == 25 * max(numbers.count(number) for number in numbers)


@pytest.mark.usefixtures("short_answers")
def test_right_thing_is_located(grounder: Grounder, question: TagQuestion) -> None:
    truth = chain_of_thought.ground_truth_phrase(question)
    assert f"on {truth.text}?" in question.turn.question
    assert chain_of_thought.locates_right_thing(truth, question)
    other = next(one for one in build_tag_questions(9) if not (one.mask & question.mask).any())
    assert not chain_of_thought.locates_right_thing(
        chain_of_thought.ground_truth_phrase(other), question
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


def test_questions_match_their_scenes() -> None:
    questions = build_tag_questions(12)
    assert len(questions) == 12
    assert [tag.turn for tag in questions[:3]] == [tag.turn for tag in build_tag_questions(3)]
    for tag in questions:
        assert tag.turn.answer.endswith(f" is {tag.number}.")
        assert tag.turn.question.startswith("What number is on the ")
        assert parse_number(tag.turn.answer) == tag.number
        (thing,) = tag.turn.mentions[0].things
        assert np.array_equal(tag.mask, tag.drawing.thing_masks[thing])


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
def test_numbers_are_parsed(answer: str, number: int | None) -> None:
    assert parse_number(answer) == number


def test_mean_interval_is_that_of_a_binomial_share() -> None:
    assert mean_interval(torch.ones(5)) == Interval(100, 100, 100)
    half = mean_interval(torch.tensor([0.0, 1.0] * 50))
    assert half.value == 50
    # Up to the error of resampling.
    assert half.low == pytest.approx(40.2, abs=1.5)
    assert half.high == pytest.approx(59.8, abs=1.5)


@pytest.fixture
def other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_plain(Path("plain"), 6)
    file = Path("mine.yaml")
    file.write_text("{kind: plain, name: mine, file: plain/texts.jsonl}\n")
    return file


def test_other_data_are_refused_first(other_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--calibration", "2", "--training", "2", "--device", "cpu")
    named = ["report", "conversation", "chain-of-thought", "--data", str(other_data), *sizes]
    ended = run_in_process(named, capsys)
    assert ended.code == 2
    assert "data 'mine' have no numbers on tags" in ended.err.splitlines()[-1]
    assert not Path("docs/report/conversation.json").exists()


def test_unsuitable_claims_are_left_out_by_default(grounder: Grounder, other_data: Path) -> None:
    messages: list[str] = []
    data = read_source_data(read_data_source(other_data), other_data.parent, 2, 2, 2)
    context = ReportContext(grounder, data, Path("work"), messages.append, lambda *_: None)
    left_out = {ClaimName.SEGMENTATION_TOKEN, ClaimName.CHAIN_OF_THOUGHT}
    assert select_claims(None, context) == [claim for claim in ClaimName if claim not in left_out]
    assert select_claims([ClaimName.WHERE], context) == [ClaimName.WHERE]
    with pytest.raises(InputError, match="have no numbers on tags"):
        CLAIMS["chain-of-thought"].run(context, Path("out"))
    assert not Path("out").exists()


def test_an_lmm_that_takes_one_picture_is_refused(tmp_path: Path) -> None:
    adapter = LlavaAdapter.build_tiny()
    adapter.tokenizer.chat_template = (
        "{% for m in messages %}<image>{{ m['content'][-1]['text'] }}{% endfor %} ASSISTANT:"
    )
    context = build_context(Grounder(adapter, tiny_head()), tmp_path)
    with pytest.raises(InputError, match="'tiny-llava' cannot be shown a picture and a part"):
        select_claims([ClaimName.CHAIN_OF_THOUGHT], context)
    assert ClaimName.CHAIN_OF_THOUGHT not in select_claims(None, context)


def test_claims_that_suit_sticker_scenes(grounder: Grounder, tmp_path: Path) -> None:
    suitable = select_claims(None, build_context(grounder, tmp_path))
    # Copies are trained by the embedded LMM's recipe, which did not make this LMM.
    assert suitable == [one for one in ClaimName if one != ClaimName.SEGMENTATION_TOKEN]
