"""Scores: fitted weights, signals, and their place in a head's configuration."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_head import PADDED, head_inputs, tiny_head

from flmm.errors import InputError
from flmm.head.checkpoint import load_config, load_head, save_config, save_head
from flmm.head.phrase_score import (
    PhraseSignals,
    ScoreCalibration,
    ScoreWeights,
    compute_signals,
)
from flmm.types import ImageGeometry

WEIGHTS = ScoreWeights(
    bias=0.5, mask_logit=1.0, log_probability=0.25, attention_entropy=-2.0, agreement=3.0
)
CALIBRATION = ScoreCalibration(decoder=replace(WEIGHTS, bias=-1.0), refined=WEIGHTS)


def test_score_is_a_logistic_regression() -> None:
    signals = PhraseSignals(
        mask_logit=2.0, log_probability=-4.0, attention_entropy=0.5, agreement=0.75
    )
    expected = 1 / (1 + math.exp(-(0.5 + 2.0 - 1.0 - 1.0 + 2.25)))
    assert WEIGHTS.compute_score(signals) == pytest.approx(expected)
    impossible = replace(signals, log_probability=-1e9)
    assert 0 <= WEIGHTS.compute_score(impossible) < 1e-9


def test_fitted_scores_are_the_share_of_right_masks() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(4000, 4)) * [3, 5, 0.1, 0.3]
    probability = 1 / (1 + np.exp(-(1 + rows @ [0.5, 0.2, -4.0, 2.0])))
    is_right = (random.random(4000) < probability).tolist()
    signals = [PhraseSignals(*row) for row in rows.tolist()]
    weights = ScoreWeights.fit(signals, is_right)
    scores = np.array([weights.compute_score(each) for each in signals])
    assert np.abs(scores - probability).mean() < 0.03
    assert scores.mean() == pytest.approx(np.mean(is_right), abs=0.005)


@pytest.mark.parametrize(("is_right", "share"), [(True, 3 / 4), (False, 1 / 4)])
def test_fit_without_a_difference_gives_the_share(is_right: bool, share: float) -> None:
    signals = [PhraseSignals(1.0, -1.0, 0.5, 0.5), PhraseSignals(2.0, -3.0, 0.1, 0.9)]
    weights = ScoreWeights.fit(signals, [is_right] * 2)
    assert weights.compute_score(signals[1]) == pytest.approx(share)


def test_signals() -> None:
    geometry = ImageGeometry((8, 8), (8, 8), (0, 0), (8, 8), (4, 4))
    attention = torch.zeros(2, 2, 4, 4)
    attention[0] = 1
    attention[1, :, 1, 1] = 1
    decoder = -torch.ones(2, 8, 8)
    decoder[0, :4] = 3.0
    final = -2 * torch.ones(2, 8, 8)
    final[0, 2:6] = 5.0
    words = [torch.tensor([-0.5, -3.0]), torch.zeros(0)]
    spread, peak = compute_signals(attention, words, decoder, final, geometry, True)
    assert asdict(spread) == pytest.approx(
        {"mask_logit": 5.0, "log_probability": -3.0, "attention_entropy": 1.0, "agreement": 1 / 3}
    )
    # Empty masks agree about nothing.
    assert asdict(peak) == pytest.approx(
        {"mask_logit": -2.0, "log_probability": 0.0, "attention_entropy": 0.0, "agreement": 0.0},
        abs=1e-6,
    )
    unrefined = compute_signals(attention, words, decoder, final, geometry, False)
    assert [each.agreement for each in unrefined] == [1.0, 1.0]


def test_calibration_is_saved_with_the_head(tmp_path: Path) -> None:
    head = tiny_head()
    given = head_inputs(head, PADDED)
    arguments = (given.attention, given.hidden_states, PADDED, given.image_embeddings)
    words = [torch.tensor([-1.0])] * len(given.attention)
    output = head(*arguments)
    assert head.score_phrases(given.attention, words, output, PADDED) == [None] * len(words)
    save_head(head, tmp_path)
    save_config(replace(head.config, score_calibration=CALIBRATION), tmp_path)
    loaded = load_head(tmp_path, head.refiner.segmenter)
    assert loaded.config.score_calibration == CALIBRATION
    refined = loaded.score_phrases(given.attention, words, output, PADDED)
    decoded = loaded.score_phrases(
        given.attention, words, loaded.decode(given.attention, PADDED), PADDED
    )
    scores = [score for score in (*refined, *decoded) if score is not None]
    assert len(scores) == 2 * len(words)
    assert all(0 < score < 1 for score in scores)
    assert refined != decoded


@pytest.mark.parametrize(
    "wrong",
    [
        {"refined": asdict(WEIGHTS)},
        {"decoder": asdict(WEIGHTS), "refined": {**asdict(WEIGHTS), "bias": "high"}},
        {"decoder": asdict(WEIGHTS), "refined": {"bias": 1.0}},
        {"decoder": asdict(WEIGHTS), "refined": {**asdict(WEIGHTS), "bias": math.nan}},
    ],
)
def test_damaged_calibration_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    save_head(tiny_head(), tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "score_calibration": wrong}))
    with pytest.raises(InputError, match="score_calibration"):
        load_config(tmp_path)
