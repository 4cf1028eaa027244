"""Answers of several models are compared, token by token and by what is right in them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from language_model.conversation import ComparedModel, measure_conversations
from language_model.conversation_results import ConversationResults, render_tables
from language_model.packing import get_word_embedding
from language_model.text_prompts import (
    ALL_KINDS,
    KINDS,
    read_text_prompts,
    score_texts,
)
from transformers.models.aya_vision.modeling_aya_vision import AyaVisionForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from flmm.embedded_model import evaluate_text
from flmm.grounding.grounder import Grounder
from flmm.lmm.auto import load_lmm
from flmm.lmm.base import LMMAdapter
from flmm.progress import no_progress
from flmm.stickers.dataset import EVALUATION_SEED

pytest_plugins = ("language_model_fixtures",)
PROMPTS = read_text_prompts()
SOME = PROMPTS[::40]
SCENES = range(EVALUATION_SEED, EVALUATION_SEED + 2)
MeasureModels = Callable[..., ConversationResults]


@pytest.fixture
def adapter(folder: Path) -> LMMAdapter:
    return load_lmm(str(folder))


@pytest.fixture
def measure(llm: LlamaForCausalLM, adapter: LMMAdapter, tmp_path: Path) -> MeasureModels:
    def run(*models: ComparedModel, scenes: Sequence[int] = ()) -> ConversationResults:
        return measure_conversations(
            tmp_path / "results", llm, adapter.tokenizer, models, SOME, scenes, no_progress
        )

    return run


def test_there_are_200_prompts_of_four_kinds() -> None:
    assert Counter(prompt.kind for prompt in PROMPTS) == dict(
        zip(KINDS, (60, 50, 45, 45), strict=True)
    )
    assert len({prompt.prompt for prompt in PROMPTS}) == 200


def test_no_answer_and_an_echo_are_not_right() -> None:
    for prompt in PROMPTS:
        assert not prompt.is_right(""), prompt
        # A greeting is answered by the same greeting.
        assert prompt.kind == "small talk" or not prompt.is_right(prompt.prompt), prompt


@pytest.mark.parametrize(
    ("prompt", "right", "wrong"),
    [
        ("What is 63 divided by 9?", "It equals 7.", "9 equals 7 with a remainder of 2."),
        ("What is 7 + 5?", "7 + 5 = twelve", "7 + 5 = 112"),
        ("How many bones does an adult human have?", "It has 206 bones.", "68, not 206."),
        ("At how many degrees Celsius does water freeze?", "At 0°C, or 32°F", "At 0.5 degrees."),
        ("Write the word house in capital letters.", "That is HOUSE.", "That is House."),
        ("Name a month of the year.", "I like May.", "You may name one."),
        ("I passed my exam!", "Congratulations!", "I'm sorry. I'm proud to help."),
        (
            "Shorten this sentence: My old friend Peter, whom I like very much, lives in London.",
            "My old friend Peter lives in London.",
            "My old friend Peter, who I like very much, lives in London.",
        ),
    ],
)
def test_right_and_wrong_answers(prompt: str, right: str, wrong: str) -> None:
    (found,) = [each for each in PROMPTS if each.prompt == prompt]
    assert found.is_right(right)
    assert not found.is_right(wrong)


def test_shares_are_those_of_each_kind() -> None:
    prompts = [prompt for prompt in PROMPTS if prompt.prompt.startswith("What is the capital of")]
    prompts += [prompt for prompt in PROMPTS if prompt.kind == "arithmetic"][:4]
    scores = score_texts(prompts, ["Paris or Rome", *["Rome"] * (len(prompts) - 2), "8"])
    assert list(scores) == ["facts", "arithmetic", ALL_KINDS]
    cities = len(prompts) - 4
    assert scores["facts"].value == pytest.approx(100 * 2 / cities)
    assert scores["arithmetic"].value == 0
    assert scores[ALL_KINDS].value == pytest.approx(100 * 2 / len(prompts))


def test_frozen_model_says_what_the_llm_says(measure: MeasureModels, adapter: LMMAdapter) -> None:
    alone, frozen = measure(ComparedModel("frozen", adapter)).models
    assert frozen.texts.count_same(alone.texts) == len(SOME)
    assert frozen.texts == alone.texts
    assert sum(map(len, alone.texts.token_ids)) > 20 * len(SOME)


def test_another_answer_is_seen(measure: MeasureModels, adapter: LMMAdapter) -> None:
    token = 7
    assert isinstance(adapter.model, AyaVisionForConditionalGeneration)
    with torch.no_grad():
        get_word_embedding(adapter.model).weight[token] *= 3
    results = measure(ComparedModel("copy, changed", adapter, token_id=token))
    alone, copy = results.models
    assert copy.texts.count_same(alone.texts) < len(SOME)
    assert copy.texts_with_token
    row = render_tables(results, SOME).splitlines()[-1]
    assert f"| {copy.texts.count_same(alone.texts)} of 5 | {copy.texts_with_token} of 5 |" in row


@pytest.fixture
def _short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_text, "_CAPTION_TOKENS", 12)
    monkeypatch.setattr(evaluate_text, "_ANSWER_TOKENS", 9)


@pytest.mark.usefixtures("_short_answers")
def test_answers_about_pictures_are_compared_with_those_with_masks(
    measure: MeasureModels, adapter: LMMAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    grounder = Grounder(adapter)
    model = ComparedModel("frozen", adapter, grounder)
    results = measure(model, scenes=SCENES[:1])
    pictures = results.models[1].pictures
    assert pictures is not None
    assert (pictures.answers, pictures.same_with_masks) == (6, 6)
    assert pictures.scores.questions == 5
    assert "6 of 6" in render_tables(results, SOME)

    chat, asked = grounder.chat, []

    def answer_one_otherwise(*arguments: object, **options: object) -> object:
        asked.append(options["history"])
        answer = chat(*arguments, **options)  # type: ignore[arg-type]
        return replace(answer, text=f"{answer.text}.") if len(asked) == 2 else answer

    monkeypatch.setattr(grounder, "chat", answer_one_otherwise)
    assert measure(model, scenes=SCENES[:1]) == results
    assert not asked
    more = measure(model, scenes=SCENES).models[1].pictures
    assert more is not None
    assert (more.answers, more.same_with_masks) == (12, 11)
    # Only the second scene is asked about, at last with the turn before.
    assert list(map(bool, asked)) == [False] * 5 + [True]


def test_answers_of_other_weights_or_in_a_damaged_file_are_made_again(
    measure: MeasureModels, adapter: LMMAdapter, llm: LlamaForCausalLM, tmp_path: Path
) -> None:
    model = ComparedModel("frozen", adapter)
    first = measure(model)
    (tmp_path / "results" / "frozen-texts.json").write_text("{")
    assert measure(model) == first
    with torch.no_grad():
        llm.model.embed_tokens.weight[7] *= 3
    changed = measure(model)
    assert changed.models[0] != first.models[0]
    assert changed.models[1] == first.models[1]
