"""The phrases that scores are calibrated on."""

from pathlib import Path

import numpy as np

from flmm.data.sample import BoxRegion, GroundedPhrase, GroundedText, Sample, TextKind
from flmm.train.score_calibration import add_absent_phrases

REGION = BoxRegion((0, 0, 2, 2))


def make_sample(picture: str, kind: TextKind, text: str, *phrases: str) -> Sample:
    grounded = tuple(
        GroundedPhrase(text.index(phrase), text.index(phrase) + len(phrase), (REGION,))
        for phrase in phrases
    )
    return Sample(Path(picture), (GroundedText(picture, kind, text, grounded),))


def test_phrases_of_other_pictures_mean_nothing() -> None:
    samples = [
        make_sample("a.png", "caption", "A cat near a green chair.", "A cat", "a green chair"),
        make_sample("b.png", "expression", "the sleeping dog", "the sleeping dog"),
        make_sample("c.png", "caption", "A chair, a lamp.", "A chair", "a lamp"),
        make_sample("d.png", "instruction", "What is bright?", "What is bright?"),
    ]
    mixed = add_absent_phrases(samples)
    assert [sample for sample in mixed if sample in samples] == samples
    absent = {
        (sample.picture.name, text.text[phrase.start : phrase.end])
        for sample in mixed
        for text in sample.texts
        for phrase in text.phrases
        if not phrase.mask((4, 4)).any()
    }
    # The first picture's texts come to the last one; questions mean nothing anywhere.
    assert absent == {
        ("a.png", "the sleeping dog"), ("b.png", "A chair"), ("b.png", "a lamp"),
        ("d.png", "A cat"), ("d.png", "a green chair"),
    }  # fmt: skip


def test_phrases_with_a_word_of_the_pictures_own_texts_are_left_out() -> None:
    samples = [
        make_sample("a.png", "expression", "the Chair on the left", "the Chair on the left"),
        make_sample("b.png", "caption", "A chair, a lamp.", "A chair", "a lamp"),
    ]
    (absent,) = [sample for sample in add_absent_phrases(samples) if sample.picture.name == "a.png"
                 and sample not in samples]  # fmt: skip
    (text,) = absent.texts
    assert [text.text[phrase.start : phrase.end] for phrase in text.phrases] == ["a lamp"]
    assert not np.any(text.phrases[0].mask((3, 3)))


def test_short_words_and_plurals_are_compared_and_pronouns_left_out() -> None:
    samples = [
        make_sample("a.png", "caption", "Two dogs, a man.", "Two dogs", "a man"),
        make_sample("b.png", "caption", "A dog, the man, a cup, it.", "A dog", "the man", "a cup",
                    "it"),
    ]  # fmt: skip
    (_, absent, *_) = add_absent_phrases(samples)
    (text,) = absent.texts
    assert absent.picture.name == "a.png"
    assert [phrase.words(text.text) for phrase in text.phrases] == ["a cup"]


def test_a_picture_alone_has_no_absent_phrases() -> None:
    sample = make_sample("a.png", "caption", "A cat.", "A cat")
    assert add_absent_phrases([sample]) == [sample]
