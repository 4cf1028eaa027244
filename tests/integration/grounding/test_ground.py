"""``Grounder.ground`` and ``flmm ground``: masks for a text that is given."""

import json
from pathlib import Path

import numpy as np
import pytest
from command import run_in_process
from evaluation_world import EvaluationSetup, make_setup, mask_of
from PIL import Image

from flmm.errors import InputError
from flmm.evaluate.results import read_rows
from flmm.evaluate.rows import PhraseRow
from flmm.grounding.grounder import Grounder

CAPTION = "The dog is left of a cat, the dog sleeps on grass."


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSetup:
    return make_setup(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="module")
def grounder(setup: EvaluationSetup) -> Grounder:
    return setup.grounder


@pytest.fixture
def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_masks_are_those_that_evaluate_measures(setup: EvaluationSetup) -> None:
    rows = [row for row in read_rows(setup.out, PhraseRow) if row.kind == "caption"]
    captions = {(row.picture, row.text_identity): row.sentence for row in rows}
    compared = 0
    for (picture, text_id), caption in captions.items():
        of_caption = sorted(
            (row for row in rows if (row.picture, row.text_identity) == (picture, text_id)),
            key=lambda row: row.start,
        )
        answer = setup.grounder.ground(picture, caption, [row.text for row in of_caption])
        assert answer.text == caption
        assert len(answer.phrases) == len(of_caption)
        for phrase, row in zip(answer.phrases, of_caption, strict=True):
            if (phrase.start, phrase.end) == (row.start, row.end):
                difference = phrase.mask != mask_of(row, row.predicted_mask)
                assert difference.mean() < 0.001
                assert phrase.score == pytest.approx(row.score, abs=1e-4)
                compared += 1
    assert compared == len(rows) > 20


def test_nothing_is_generated_and_the_llm_runs_once(
    grounder: Grounder, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    hook = grounder.adapter.text_model.register_forward_hook(lambda *_: passes.append(1))
    monkeypatch.setattr(grounder.adapter.model, "generate", None)
    answer = grounder.ground(picture, CAPTION)
    hook.remove()
    assert len(passes) == 1
    assert answer.text == CAPTION
    assert {"picture", "read", "masks"} <= answer.timings.keys()


def test_repeated_phrases_are_the_next_mentions(grounder: Grounder, picture: Image.Image) -> None:
    answer = grounder.ground(picture, CAPTION, ["the dog", "grass"])
    assert [(p.start, p.end) for p in answer.phrases] == [(26, 33), (44, 49)]
    text = f" \n{CAPTION} "
    padded = grounder.ground(picture, text, ["the dog", "grass"])
    assert padded.text == text
    for phrase, moved in zip(answer.phrases, padded.phrases, strict=True):
        assert text[moved.start : moved.end] == phrase.text
        assert np.array_equal(moved.mask, phrase.mask)


def test_question_is_part_of_the_prompt(grounder: Grounder, picture: Image.Image) -> None:
    own = grounder.ground(picture, CAPTION, ["grass"])
    same = grounder.ground(picture, CAPTION, ["grass"], question="What is in the picture?")
    other = grounder.ground(picture, CAPTION, ["grass"], question="Where does it sleep?")
    assert same.phrases[0].score == own.phrases[0].score != other.phrases[0].score


def test_noun_chunks_choose_the_phrases(grounder: Grounder, picture: Image.Image) -> None:
    answer = grounder.ground(picture, "A dog sleeps on the grass.", phrase_source="noun_chunks")
    assert [phrase.text for phrase in answer.phrases] == ["A dog", "the grass"]
    assert grounder.ground(picture, "Sleeping.", phrase_source="noun_chunks").phrases == ()


@pytest.mark.parametrize(
    ("text", "phrases", "question", "message"),
    [
        (" ", None, None, "text is empty"),
        ("A dog.", [], None, "list of phrases is empty"),
        ("A dog.", ["a cat"], None, "'a cat' is not in the text"),
        ("A dog.", None, " ", "question is empty"),
    ],
)
def test_mistakes_raise_input_error(
    grounder: Grounder,
    picture: Image.Image,
    text: str,
    phrases: list[str] | None,
    question: str | None,
    message: str,
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        grounder.ground(picture, text, phrases, question=question)
    assert "\n" not in str(caught.value)


def test_values_of_other_types_raise_input_error(grounder: Grounder, picture: Image.Image) -> None:
    for arguments in ((3,), (b"A cat",), ("A cat", 7), ("A cat", b"cat"), ("A cat", [None])):
        with pytest.raises(InputError, match="is of type"):
            grounder.ground(picture, *arguments)
    with pytest.raises(InputError, match="question is of type 'int'"):
        grounder.ground(picture, "A cat", question=3)  # type: ignore[arg-type]


def test_messages_quote_the_beginning_of_a_long_text(
    grounder: Grounder, picture: Image.Image
) -> None:
    with pytest.raises(InputError, match="'a dog' is not in the text") as caught:
        grounder.ground(picture, "a cat " * 200, ["a dog"])
    assert len(str(caught.value)) < 450


def test_texts_beyond_the_context_are_refused(grounder: Grounder, picture: Image.Image) -> None:
    context = grounder.adapter.context_length
    assert context is not None
    text = "a cat " * context
    question = f"{text}?"
    for call in (
        lambda: grounder.ground(picture, text),
        lambda: grounder.segment(picture, ["grass", text]),
        lambda: grounder.chat(picture, question),
        lambda: list(grounder.stream(picture, question)),
        lambda: grounder.attend(picture, question),
        lambda: grounder.attend(picture, "What?", answer=text),
        lambda: grounder.think(picture, question),
        lambda: grounder.chat_together([(picture, "What?"), (picture, question)]),
    ):
        with pytest.raises(InputError, match=rf"the LMM takes {context}; give shorter texts"):
            call()


def test_an_answer_ends_where_the_context_does(
    grounder: Grounder, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = grounder.attend(picture, "What?", max_new_tokens=100)
    length = grounder.adapter.build_prompt(picture, "What?").length
    config = grounder.adapter.text_model.config
    monkeypatch.setattr(config, "max_position_embeddings", length + 12)
    cut = grounder.attend(picture, "What?", max_new_tokens=100)
    assert cut.words[0].text_attention.attention.shape[2] == 11
    assert whole.text.startswith(cut.text.rstrip("\N{REPLACEMENT CHARACTER}"))
    assert grounder.chat(picture, "What?", max_new_tokens=100).text == cut.text
    monkeypatch.setattr(config, "max_position_embeddings", length + 1)
    with pytest.raises(InputError, match="give shorter texts"):
        grounder.chat(picture, "What?")


def test_command_prints_what_python_returns(
    setup: EvaluationSetup,
    picture: Image.Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    picture.save("picture.png")
    model = ["--model", str(setup.head), "--device", "cpu"]
    arguments = ["ground", "picture.png", CAPTION, "--phrase", "a cat", *model]
    ended = run_in_process([*arguments, "--json"], capsys)
    assert (ended.code, ended.err) == (0, "")
    expected = setup.grounder.ground(picture, CAPTION, ["a cat"]).to_dict()
    content = json.loads(ended.out)
    assert content["text"] == CAPTION
    assert content["phrases"] == json.loads(json.dumps(expected["phrases"]))
    assert run_in_process(arguments, capsys).code == 0
    assert Path("picture-ground.png").is_file()
    refused = run_in_process(["ground", "picture.png", "A dog.", "--phrase", "cat", *model], capsys)
    assert refused.code == 2
    assert "'cat' is not in the text" in refused.err
