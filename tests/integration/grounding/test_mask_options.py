"""The options of masks in Python, from the command line, over HTTP and in batches; and scores."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from command import run_in_process
from serving import QUESTION, data_url, encode_picture, noise, run_server, tiny_grounder
from tiny_grounding import save_lmm, save_tiny_head

from flmm.answers.json_types import AnswerJson
from flmm.errors import InputError
from flmm.grounding.grounder import Grounder
from flmm.grounding.streaming import AnswerEvent, PhraseEvent
from flmm.head.phrase_score import ScoreCalibration, ScoreWeights
from flmm.masks.small_regions import remove_small_regions
from flmm.pictures.geometry import mask_box
from flmm.serve.settings import ServerSettings

PICTURE = noise()
PHRASES = ["the cat", "a dog on grass", "sky"]
OPTIONS: dict[str, Any] = {"mask_threshold": 0.3, "min_mask_region_area": 9}
WEIGHTS = ScoreWeights(
    bias=0.0, mask_logit=0.5, log_probability=0.5, attention_entropy=0.0, agreement=1.0
)
DEMO = Path(__file__).parents[3] / "src" / "flmm" / "assets" / "pictures" / "demo.png"


def calibrated_grounder() -> Grounder:
    grounder = tiny_grounder()
    assert grounder.head is not None
    calibration = ScoreCalibration(decoder=WEIGHTS, refined=WEIGHTS)
    grounder.head.config = replace(grounder.head.config, score_calibration=calibration)
    return grounder


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return calibrated_grounder()


def without_timings(answer: AnswerJson | dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(answer))
    return {**content, "timings": {}}


def middle_score(scores: list[float]) -> float:
    """Return a score that some phrases reach and others do not."""
    assert len(set(scores)) > 1
    return sorted(set(scores))[len(set(scores)) // 2]


def test_mask_threshold_makes_masks_smaller(grounder: Grounder) -> None:
    masks = {
        threshold: [
            phrase.mask
            for phrase in grounder.segment(PICTURE, PHRASES, mask_threshold=threshold).phrases
        ]
        for threshold in (0.2, 0.5, 0.8)
    }
    plain = [phrase.mask for phrase in grounder.segment(PICTURE, PHRASES).phrases]
    for low, same, high, default in zip(*masks.values(), plain, strict=True):
        assert np.array_equal(same, default)
        assert not (default & ~low).any()
        assert not (high & ~default).any()
    assert sum(mask.sum() for mask in masks[0.2]) > sum(mask.sum() for mask in masks[0.8])


@pytest.mark.parametrize("refine", [True, False])
def test_small_regions_are_removed_before_the_box_is_drawn(
    grounder: Grounder, refine: bool
) -> None:
    plain = grounder.segment(PICTURE, PHRASES, refine=refine)
    cleaned = grounder.segment(PICTURE, PHRASES, refine=refine, min_mask_region_area=40)
    for before, after in zip(plain.phrases, cleaned.phrases, strict=True):
        expected = remove_small_regions(before.mask, 40)
        assert np.array_equal(after.mask, expected)
        assert after.box == (mask_box(torch.from_numpy(expected)) or (0, 0, 0, 0))
    if refine:
        assert any(
            not np.array_equal(before.mask, after.mask)
            for before, after in zip(plain.phrases, cleaned.phrases, strict=True)
        )


def test_phrases_below_the_score_are_left_out(grounder: Grounder) -> None:
    all_phrases = grounder.chat(PICTURE, QUESTION, max_new_tokens=20).phrases
    limit = middle_score([phrase.score for phrase in all_phrases])
    kept = [phrase.text for phrase in all_phrases if phrase.score >= limit]
    assert 0 < len(kept) < len(all_phrases)
    answer = grounder.chat(PICTURE, QUESTION, max_new_tokens=20, min_score=limit)
    assert [phrase.text for phrase in answer.phrases] == kept
    # Rounding may differ between phrases that are predicted together and alone.
    limit -= 1e-4
    events = list(grounder.stream(PICTURE, QUESTION, max_new_tokens=20, min_score=limit))
    assert isinstance(events[-1], AnswerEvent)
    streamed = [event.phrase for event in events if isinstance(event, PhraseEvent)]
    assert sorted(phrase.text for phrase in streamed) == sorted(kept)
    assert [phrase.text for phrase in events[-1].answer.phrases] == kept


@pytest.mark.parametrize(
    ("name", "value"),
    [("mask_threshold", 0.0), ("mask_threshold", 1.0), ("mask_threshold", float("nan")),
     ("min_score", -0.1), ("min_score", 1.5), ("min_mask_region_area", -1)],
)  # fmt: skip
def test_impossible_values_are_refused_everywhere(
    grounder: Grounder, name: str, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=f"{name} is {value}"):
        grounder.segment(PICTURE, PHRASES, **{name: value})  # type: ignore[arg-type]
    option = f"--{name.replace('_', '-')}={value}"
    for command in (["segment", str(DEMO), "a dog"], ["batch", str(DEMO.parent), QUESTION]):
        ended = run_in_process([*command, option], capsys)
        assert (ended.code, ended.out) == (2, "")
        assert f"{name} is {value}" in ended.err


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with run_server(calibrated_grounder(), ServerSettings(port=0)) as address:
        yield address


def post(address: str, route: str, **fields: object) -> dict[str, Any]:
    url = data_url(encode_picture(PICTURE))
    response = httpx.post(f"{address}/v1/{route}", json={"image": url, **fields}, timeout=60)
    assert response.status_code == 200, response.text
    content: dict[str, Any] = response.json()
    return without_timings(content)


def test_http_takes_the_same_options(address: str, grounder: Grounder) -> None:
    segmented = grounder.segment(PICTURE, PHRASES, **OPTIONS)
    assert post(address, "segment", phrases=PHRASES, **OPTIONS) == without_timings(
        segmented.to_dict()
    )
    limit = middle_score([phrase.score for phrase in segmented.phrases])
    options = {**OPTIONS, "min_score": limit - 1e-4}
    fewer = grounder.segment(PICTURE, PHRASES, **options)
    assert 0 < len(fewer.phrases) < len(PHRASES)
    assert post(address, "segment", phrases=PHRASES, **options)["phrases"] == json.loads(
        json.dumps(fewer.to_dict()["phrases"])
    )
    text = "A dog on grass, a cat."
    said = {"question": QUESTION, "max_tokens": 20}
    for fields, expected in (
        ({"text": text}, grounder.ground(PICTURE, text, **options)),
        (said, grounder.chat(PICTURE, QUESTION, max_new_tokens=20, **options)),
    ):
        content = post(address, "ground", **fields, **options)
        assert [phrase["text"] for phrase in content["phrases"]] == [
            phrase.text for phrase in expected.phrases
        ]


@pytest.mark.parametrize("stream", [False, True])
def test_chat_over_http_leaves_out_phrases_below_the_score(
    address: str, grounder: Grounder, stream: bool
) -> None:
    answer = grounder.chat(PICTURE, QUESTION, max_new_tokens=20, **OPTIONS)
    limit = middle_score([phrase.score for phrase in answer.phrases]) - 1e-4
    kept = sorted(phrase.text for phrase in answer.phrases if phrase.score >= limit)
    picture = {"type": "image_url", "image_url": {"url": data_url(encode_picture(PICTURE))}}
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": [picture, {"type": "text", "text": QUESTION}]}],
        "max_tokens": 20,
        "grounding": {**OPTIONS, "min_score": limit},
        "stream": stream,
    }
    response = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    if stream:
        lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
        deltas = [json.loads(line)["choices"][0]["delta"] for line in lines[:-1]]
        phrases = [phrase for delta in deltas for phrase in delta.get("grounding") or ()]
    else:
        phrases = response.json()["choices"][0]["message"]["grounding"]
    assert sorted(phrase["text"] for phrase in phrases) == kept


def test_http_refuses_impossible_values(address: str) -> None:
    url = data_url(encode_picture(PICTURE))
    for option in ({"mask_threshold": 1}, {"min_score": 2}, {"min_mask_region_area": -1}):
        fields = {"image": url, "phrases": PHRASES, **option}
        response = httpx.post(f"{address}/v1/segment", json=fields, timeout=60)
        assert response.status_code == 400
        assert next(iter(option)) in response.json()["error"]["message"]


def test_batch_takes_the_same_options_and_resumes_with_these_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    head = str(save_tiny_head(tmp_path / "head", str(save_lmm(tmp_path / "lmm"))))
    PICTURE.save("a.png")
    Path("list.jsonl").write_text(json.dumps({"image": "a.png", "phrases": PHRASES}))
    plain = ["batch", "list.jsonl", "--model", head]
    arguments = [*plain, "--mask-threshold", "0.3", "--min-mask-region-area", "9"]
    assert run_in_process(arguments, capsys).code == 0
    answer = json.loads(Path("results.jsonl").read_text())["answer"]
    expected = Grounder.from_pretrained(head).segment(PICTURE, PHRASES, **OPTIONS).to_dict()
    assert answer["phrases"] == json.loads(json.dumps(expected["phrases"]))
    assert run_in_process(arguments, capsys).code == 0
    for other in (plain, [*arguments, "--min-score", "0.5"]):
        ended = run_in_process(other, capsys)
        assert ended.code == 2
        assert "is for results of other settings: " in ended.err


def test_command_takes_the_same_options(capsys: pytest.CaptureFixture[str]) -> None:
    embedded = Grounder.from_pretrained()
    phrases = ["the dog", "the zeppelin", "blorp zint"]
    all_phrases = embedded.segment(DEMO, phrases).phrases
    # The score is low for what is not there, and for what means nothing.
    assert [phrase.score > 0.5 for phrase in all_phrases] == [True, False, False]
    options = {"mask_threshold": 0.7, "min_score": 0.5, "min_mask_region_area": 30}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    ended = run_in_process(["segment", str(DEMO), *phrases, "--json", *flags], capsys)
    assert ended.code == 0
    expected = embedded.segment(DEMO, phrases, **options)  # type: ignore[arg-type]
    assert [phrase.text for phrase in expected.phrases] == ["the dog"]
    assert without_timings(json.loads(ended.out)) == without_timings(expected.to_dict())
