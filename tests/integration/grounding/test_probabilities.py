"""Each pixel's probability to be in a mask, made from the logits when it is asked for."""

import pickle

import numpy as np
import pytest
from PIL import Image
from tiny_grounding import tiny_head

from flmm.grounding.grounder import Grounder
from flmm.lmm.families.llava import LlavaAdapter
from flmm.segmenters.sam import SamSegmenter
from flmm.segmenters.sam2 import Sam2Segmenter

CAPTION = "The dog is left of a cat, the dog sleeps on grass."


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
    return Image.fromarray(values)


def check_probabilities(grounder: Grounder, picture: Image.Image, refine: bool) -> None:
    answer = grounder.ground(picture, CAPTION, refine=refine)
    threshold = float(np.median(answer.phrases[0].probabilities))
    answer = grounder.ground(picture, CAPTION, refine=refine, mask_threshold=threshold)
    assert 0 < answer.phrases[0].area < 40 * 61
    for phrase in pickle.loads(pickle.dumps(answer)).phrases:
        assert phrase.probabilities.dtype == np.float32
        assert phrase.probabilities.shape == (40, 61)
        clear = abs(phrase.probabilities - threshold) > 1e-6
        assert np.array_equal((phrase.probabilities > threshold)[clear], phrase.mask[clear])
    assert len(pickle.dumps(answer)) < 500_000, "the answer holds a model"


@pytest.mark.parametrize("refine", [True, False])
def test_of_a_head(picture: Image.Image, refine: bool) -> None:
    check_probabilities(Grounder(LlavaAdapter.build_tiny(), tiny_head()), picture, refine)


@pytest.mark.parametrize("family", [None, SamSegmenter, Sam2Segmenter])
def test_without_a_head(
    picture: Image.Image, family: type[SamSegmenter | Sam2Segmenter] | None
) -> None:
    segmenter = None if family is None else family.build_tiny()
    check_probabilities(Grounder(LlavaAdapter.build_tiny(), segmenter=segmenter), picture, True)
