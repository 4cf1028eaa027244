"""Tests of the model that comes with the package: its files, size, answers, masks and quality."""

from collections.abc import Mapping
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from serving import data_url, run_server
from sklearn.metrics import roc_auc_score

import flmm
from flmm.data.features import FeatureExtractor, predict_masks, stack_score_inputs
from flmm.embedded_model.evaluate import measure
from flmm.embedded_model.evaluation_settings import DEFAULT_SETTING
from flmm.embedded_model.phrase_sets import PHRASE_SETS, extract_phrases
from flmm.grounding.grounder import Grounder
from flmm.progress import no_progress
from flmm.report.chain_of_thought.tag_questions import build_tag_questions, parse_number
from flmm.serve.settings import ServerSettings

QUESTION = "What is in the picture?"
PACKAGE = Path(flmm.__file__).parent
DEMO = PACKAGE / "assets" / "pictures" / "demo.png"


@pytest.fixture(scope="module")
def embedded() -> Grounder:
    folder = PACKAGE / "assets" / "embedded"
    missing = [part for part in ("lmm", "head", "head/sam") if not (folder / part).is_dir()]
    assert not missing, f"the embedded model lacks {missing}; run `flmm stickers build`"
    return Grounder.from_pretrained()


def test_embedded_model_describes_and_grounds_the_demo_picture(embedded: Grounder) -> None:
    answer = embedded.chat(DEMO, QUESTION)
    assert answer.text.startswith("There ")
    assert len(answer.phrases) >= 3
    for phrase in answer.phrases:
        assert phrase.area, f"the mask of {phrase.text!r} is empty"
        assert answer.text[phrase.start : phrase.end] == phrase.text
    again = embedded.chat(DEMO, QUESTION)
    assert again.text == answer.text
    for first, second in zip(answer.phrases, again.phrases, strict=True):
        assert np.array_equal(first.mask, second.mask)


def test_embedded_model_answers_what_it_is_not_trained_on(embedded: Grounder) -> None:
    system = {"role": "system", "content": "You are a helpful assistant."}
    picture = {"type": "image_url", "image_url": {"url": data_url(DEMO.read_bytes())}}
    question = {"role": "user", "content": [picture, {"type": "text", "text": QUESTION}]}
    expected = embedded.chat(DEMO, QUESTION).text
    prompts = [embedded.adapter.build_prompt((), text) for text in (QUESTION, "Hello!")]
    for prompt in prompts:
        for temperature in (0.0, 2.0):
            answer = embedded.adapter.generate(prompt, temperature=temperature)
            assert answer.text == "I see no picture."
    with run_server(embedded, ServerSettings(port=0)) as address:

        def ask(*messages: Mapping[str, object], **options: object) -> str:
            body = {"model": embedded.model, "messages": messages, **options}
            response = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)
            (choice,) = response.json()["choices"]
            assert choice["finish_reason"] == "stop"
            assert isinstance(choice["message"]["content"], str)
            return choice["message"]["content"]

        assert ask(system, question) == expected
        hello = {"role": "user", "content": "Hello!"}
        assert ask(hello) == ask(system, hello, temperature=2.0) == "I see no picture."
        # A picture that was shown before is one.
        turn = {"role": "assistant", "content": expected}
        second = {"role": "user", "content": "Is there a cat?"}
        assert ask(system, question, turn, second) == ("Yes, there is a cat on the left.")


def test_embedded_model_finds_the_ground_below_and_the_backdrop_above(embedded: Grounder) -> None:
    answer = embedded.chat(DEMO, QUESTION)
    ground, backdrop = answer.phrases[-2].text, answer.phrases[-1].text
    lower, upper = embedded.segment(DEMO, [ground, backdrop]).phrases
    height = answer.size[0]
    assert np.nonzero(lower.mask)[0].mean() > height / 2 > np.nonzero(upper.mask)[0].mean()


def test_articles_do_not_change_the_embedded_models_masks(embedded: Grounder) -> None:
    bare, *others = embedded.segment(DEMO, ["cat", "a cat", "the cat", "The  cat"]).phrases
    assert bare.text == "cat"
    assert bare.area > 1000
    for other in others:
        assert np.array_equal(other.mask, bare.mask)


def test_pronouns_and_what_is_denied_have_no_mask(embedded: Grounder) -> None:
    for text, phrases in (("It is in front of grass.", ["grass"]), ("There is no dog.", [])):
        assert [phrase.text for phrase in embedded.ground(DEMO, text).phrases] == phrases


def test_embedded_model_reads_more_numbers_with_think(embedded: Grounder) -> None:
    before = after = 0
    for question in build_tag_questions(8):
        thought = embedded.think(question.picture, question.turn.question)
        before += parse_number(thought.first.text) == question.number
        after += parse_number(thought.answer.text) == question.number
    assert after >= before + 3


def test_embedded_model_is_small(embedded: Grounder) -> None:
    assert sum(p.numel() for p in embedded.adapter.model.parameters()) <= 8_000_000
    files = (PACKAGE / "assets" / "embedded").rglob("*")
    assert sum(path.stat().st_size for path in files if path.is_file()) <= 40 * 2**20


def test_embedded_model_keeps_its_quality() -> None:
    # 10 scenes, to be fast; README's figures come from 1,000.
    (report,) = measure(
        PACKAGE / "assets" / "embedded", [(DEFAULT_SETTING, 10)], no_progress, calibration_scenes=4
    )
    words = report.words
    assert words.named >= 0.9
    assert words.absent is not None
    assert words.absent <= 0.05
    assert words.all_answers is not None
    assert words.all_answers >= 0.85
    assert words.answers["follow up"] >= 0.7
    assert words.keyword_f1 is not None
    assert words.keyword_f1 >= 0.9
    decoder, refined = report.captions["decoder"], report.captions["refined"]
    assert refined.stuff_cumulative is not None
    assert refined.stuff_cumulative >= 0.95
    assert refined.things_cumulative >= max(0.78, decoder.things_cumulative + 0.03)
    assert decoder.things_cumulative > report.captions["mean map"].things_cumulative
    assert report.references["refined"].things_cumulative >= 0.82
    assert report.references["decoder"].things_cumulative >= 0.68
    assert report.absent_refused is not None
    assert report.absent_refused >= 0.8


def test_scores_tell_what_is_there(embedded: Grounder) -> None:
    # 16 scenes, to be fast; the figures of docs/scores.md come from 500.
    head = embedded.head
    assert head is not None
    extractor = FeatureExtractor(embedded.adapter, head.config, head.refiner)
    scores: dict[str, list[float]] = {phrase_set: [] for phrase_set in PHRASE_SETS}
    for of_scene in extract_phrases(extractor, "measure", 16):
        features = of_scene.example.features
        with torch.no_grad():
            output = predict_masks(head, features)
        found = head.score_phrases(*stack_score_inputs(features.phrases), output, features.geometry)
        for phrase_set, score in zip(PHRASE_SETS, found, strict=True):
            assert score is not None
            scores[phrase_set].append(score)
    for phrase_set in ("absent", "nonsense"):
        others = scores[phrase_set]
        labels = [True] * len(scores["present"]) + [False] * len(others)
        assert roc_auc_score(labels, [*scores["present"], *others]) >= 0.97
    assert np.mean([score > 0.5 for score in scores["present"]]) >= 0.8
    assert np.mean([score < 0.1 for score in scores["nonsense"]]) >= 0.9
