"""Calibration of a trained head's scores on pictures that it was not trained on."""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from flmm.data.exchanges import ReferringProtocol
from flmm.data.features import FeatureExtractor, predict_masks, stack_score_inputs
from flmm.data.sample import GroundedText, Sample
from flmm.evaluate.metrics import compute_overlap
from flmm.head.checkpoint import load_head, save_config
from flmm.head.model import GroundingHead, HeadOutput
from flmm.head.phrase_score import (
    RIGHT_IOU,
    PhraseSignals,
    ScoreCalibration,
    ScoreWeights,
    compute_signals,
)
from flmm.pictures.geometry import resize_to_picture
from flmm.progress import ProgressCallback
from flmm.train.dataset import TrainingExample, UncachedDataset

_MAX_PICTURES = 200
"""More make no better scores, and other processes wait."""
_WORD = re.compile(r"\w+")


def calibrate_saved_head(
    folder: Path,
    samples: Sequence[Sample],
    extractor: FeatureExtractor,
    head: GroundingHead,
    on_progress: ProgressCallback,
) -> None:
    """Fit the scores of a saved head, and write them into its configuration.

    Each picture is read with its own texts and with those of another one, whose phrases should have
    no mask; expressions are asked one by one, as ``Grounder.segment`` asks them.

    Args:
        folder: the saved head's.
        samples: that it was not trained on; some, if they are many. Without any, nothing is done.
        extractor: of its LMM.
        head: in whose place the saved one is loaded: its SAM gets the saved weights.
        on_progress: called after each picture.

    Raises:
        InputError: the head cannot be read or written.
    """
    step = max(len(samples) // _MAX_PICTURES, 1)
    mixed = add_absent_phrases(samples[::step][:_MAX_PICTURES])
    dataset = UncachedDataset(mixed, extractor, ReferringProtocol.ONE_BY_ONE, lambda _: None)

    def read() -> Iterator[TrainingExample]:
        for index in range(len(dataset)):
            on_progress(index, len(dataset), "calibrating scores")
            yield from dataset.get([index])

    examples = read()
    if (first := next(examples, None)) is None:
        return
    device = next(head.parameters()).device
    saved = load_head(folder, head.refiner.segmenter).to(device)
    calibration = fit_score_calibration(saved, itertools.chain([first], examples))
    save_config(replace(saved.config, score_calibration=calibration), folder)


def add_absent_phrases(samples: Sequence[Sample]) -> list[Sample]:
    """Return each sample, and its picture with the texts of the next one, which mean nothing."""
    mixed = []
    for sample, other in zip(samples, [*samples[1:], *samples[:1]], strict=True):
        mixed.append(sample)
        own_words = _content_words(text.text for text in sample.texts)
        texts = tuple(
            absent for text in other.texts if (absent := _make_absent(text, own_words)).phrases
        )
        if texts and other.picture != sample.picture:
            mixed.append(Sample(sample.picture, texts))
    return mixed


def _make_absent(text: GroundedText, own_words: set[str]) -> GroundedText:
    """Return a text with those of its phrases that share no word with a picture's own texts.

    These mean nothing in that picture, so they have no region. Questions keep no phrase: that all
    of one means nothing cannot be told by its words. Nor can it of "it" and "the other".
    """
    if text.kind == "instruction":
        return replace(text, phrases=())
    return replace(
        text,
        phrases=tuple(
            replace(phrase, regions=(), ignored=())
            for phrase in text.phrases
            if (words := _content_words([phrase.words(text.text)])) and not own_words & words
        ),
    )


def _content_words(texts: Iterable[str]) -> set[str]:
    """Return the words without a plural's "s", and without articles, prepositions and such."""
    from spacy.lang.en.stop_words import STOP_WORDS

    words = {word for text in texts for word in _WORD.findall(text.lower())} - STOP_WORDS
    return {word.removesuffix("s") for word in words}


@torch.no_grad()
def fit_score_calibration(
    head: GroundingHead, examples: Iterable[TrainingExample]
) -> ScoreCalibration:
    """Return the weights of a head's scores; the head is not changed.

    Args:
        head: in evaluation mode, on the features' device.
        examples: with log probabilities; phrases that mean nothing have empty true masks. Scores
            are probabilities for phrases that are mixed as these.
    """
    signals: dict[bool, list[PhraseSignals]] = {False: [], True: []}
    is_right: dict[bool, list[bool]] = {False: [], True: []}
    for example in examples:
        features = example.features
        refined = predict_masks(head, features)
        decoded = resize_to_picture(refined.mask_logits, features.geometry)
        decoder = HeadOutput(refined.mask_logits, decoded, False)
        for output in (decoder, refined) if refined.is_refined else (decoder,):
            signals[output.is_refined] += compute_signals(
                *stack_score_inputs(features.phrases), output.mask_logits, output.refined_logits,
                features.geometry, output.is_refined,
            )  # fmt: skip
            is_right[output.is_refined] += find_right_masks(output.refined_logits, example)
    of_decoder = ScoreWeights.fit(signals[False], is_right[False])
    of_refined = ScoreWeights.fit(signals[True], is_right[True]) if signals[True] else of_decoder
    return ScoreCalibration(of_decoder, of_refined)


def find_right_masks(logits: Tensor, example: TrainingExample) -> list[bool]:
    """Return whether each mask, of (P, H, W) logits, is right; none is where nothing is there."""
    valid = ~example.ignored_masks
    truth = example.masks & valid
    overlap = compute_overlap((logits > 0).cpu() & valid, truth)
    right: list[bool] = ((overlap.iou > RIGHT_IOU) & truth.flatten(1).any(dim=1)).tolist()
    return right
