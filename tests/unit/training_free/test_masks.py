from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from synthetic_traces import build_trace, phrase_of, random_maps, square_geometry
from tiny_head import random_picture
from torch import Tensor
from traced_texts import build_spy_segmenter

from flmm.attention.trace import TracedPhrase
from flmm.segmenters.prompts import PictureEmbeddings, SegmenterMasks, SegmenterPrompts
from flmm.segmenters.sam import SamSegmenter
from flmm.training_free.masks import TrainingFreeMasks
from flmm.training_free.profile import Profile
from flmm.types import ImageGeometry, Size

ONE_CELL = ImageGeometry((20, 30), (32, 48), (0, 0), (32, 48), (1, 1))
GEOMETRIES = {
    "one cell": ONE_CELL,
    "one row": ImageGeometry((9, 90), (16, 160), (0, 0), (16, 160), (1, 10)),
    "padded landscape": ImageGeometry((40, 100), (51, 128), (38, 0), (128, 128), (8, 8)),
    "padded portrait": ImageGeometry((100, 40), (128, 51), (0, 38), (128, 128), (8, 8)),
    "cropped landscape": ImageGeometry((40, 100), (128, 320), (0, -96), (128, 128), (8, 8)),
    "cropped portrait": ImageGeometry((100, 40), (320, 128), (-96, 0), (128, 128), (8, 8)),
}
LEFT_SCORE, RIGHT_SCORE = 0.60, 0.55


@pytest.fixture(params=GEOMETRIES.values(), ids=list(GEOMETRIES))
def geometry(request: pytest.FixtureRequest) -> ImageGeometry:
    chosen: ImageGeometry = request.param
    return chosen


def look_at(geometry: ImageGeometry, row: int, column: int) -> Tensor:
    """Return (1, 2, 3, h, w) maps, the first token's of that cell."""
    maps = 0.1 * random_maps(1, 2, 3, *geometry.grid)
    maps[:, :, 0, row, column] = 0.5
    return maps


def predict(
    masks: TrainingFreeMasks,
    traced: Sequence[TracedPhrase],
    embeddings: PictureEmbeddings | None = None,
) -> Tensor:
    logits = masks.predict_logits(traced, embeddings)
    return torch.cat([phrase.to_picture() for phrase in logits])


def encode(segmenter: SamSegmenter, picture: Size) -> PictureEmbeddings:
    return segmenter.encode(random_picture(*picture))


def test_masks_from_attention_alone_have_the_pictures_size(geometry: ImageGeometry) -> None:
    rows, columns = geometry.grid
    row, column = rows // 2, columns // 2
    trace = build_trace(look_at(geometry, row, column), geometry)
    logits = predict(TrainingFreeMasks(None), [(phrase_of(0), trace), (phrase_of(1), trace)])
    assert logits.shape == (2, *geometry.picture)
    assert logits.isfinite().all()
    if geometry is ONE_CELL:
        return
    # The middle cell's centre is half a cell right of and below the middle of the picture.
    y, x = (
        int(
            ((index + 0.5) * geometry.canvas[axis] / geometry.grid[axis] - geometry.offset[axis])
            * geometry.picture[axis]
            / geometry.resized[axis]
        )
        for axis, index in enumerate((row, column))
    )
    assert logits[0, y, x] > 0
    assert (logits[0] > 0).float().mean() < 0.5
    assert int(logits[0].argmax()) != int(logits[1].argmax())


def test_masks_of_a_segmenter_have_the_pictures_size(geometry: ImageGeometry) -> None:
    segmenter = build_spy_segmenter()
    trace = build_trace(look_at(geometry, 0, 0), geometry)
    logits = predict(
        TrainingFreeMasks(segmenter),
        [(phrase_of(0), trace), (phrase_of(1), trace)],
        encode(segmenter, geometry.picture),
    )
    assert logits.shape == (2, *geometry.picture)
    assert logits.isfinite().all()


def test_attention_that_is_the_same_everywhere() -> None:
    """As every map on a grid of one cell, there is no region to box."""
    segmenter = build_spy_segmenter()
    geometry = square_geometry(4)
    trace = build_trace(torch.full((1, 2, 3, 4, 4), 0.05), geometry)
    traced = [(phrase_of(0), trace)]
    embeddings = encode(segmenter, geometry.picture)
    assert predict(TrainingFreeMasks(segmenter), traced, embeddings).isfinite().all()
    assert not (predict(TrainingFreeMasks(None), traced) > 0).any()


def test_nothing_is_predicted_for_no_phrase() -> None:
    assert list(TrainingFreeMasks(None).predict_logits([], None)) == []


class TwoHalves(SamSegmenter):
    """Whatever the prompts, its masks are the left and the right half of the picture."""

    left_score = LEFT_SCORE

    def decode(
        self,
        embeddings: PictureEmbeddings,
        picture: Size,
        prompts: SegmenterPrompts,
        multimask: bool = False,
        picture_indices: Tensor | None = None,
    ) -> SegmenterMasks:
        del embeddings, picture, multimask, picture_indices
        assert prompts.num_phrases is not None
        side = self.low_resolution_side
        left = torch.full((side, side), -1.0)
        left[:, : side // 2] = 1
        logits = torch.stack([left, -left]).expand(prompts.num_phrases, -1, -1, -1)
        scores = torch.tensor([self.left_score, RIGHT_SCORE]).expand(prompts.num_phrases, -1)
        return SegmenterMasks(logits, scores)


@pytest.mark.parametrize(("left_score", "is_right"), [(LEFT_SCORE, True), (0.99, False)])
def test_candidate_that_explains_the_map_wins_unless_its_score_is_far_lower(
    left_score: float, is_right: bool
) -> None:
    segmenter = TwoHalves.build_tiny()
    segmenter.left_score = left_score
    geometry = square_geometry(8)
    maps = 0.1 * random_maps(1, 2, 3, *geometry.grid)
    maps[:, :, 0, 1:7, 4:] *= 10
    traced = [(phrase_of(0), build_trace(maps, geometry))]
    (logits,) = predict(TrainingFreeMasks(segmenter), traced, encode(segmenter, geometry.picture))
    right = torch.zeros(geometry.picture, dtype=torch.bool)
    right[:, 64:] = True
    assert torch.equal(logits > 0, right if is_right else ~right)


@pytest.mark.parametrize("with_segmenter", [False, True])
def test_each_of_many_phrases_gets_the_mask_that_it_gets_alone(with_segmenter: bool) -> None:
    """So many that they take two passes; each is compared with all other words either way."""
    segmenter = build_spy_segmenter() if with_segmenter else None
    geometry = square_geometry(6)
    trace = build_trace(random_maps(1, 2, 18, *geometry.grid) ** 2, geometry)
    embeddings = None if segmenter is None else encode(segmenter, geometry.picture)
    masks = TrainingFreeMasks(segmenter)
    traced = [(phrase_of(token), trace) for token in range(18)]
    together = predict(masks, traced, embeddings)
    assert len(together) == 18
    for logits, each in zip(together, traced, strict=True):
        (alone,) = predict(masks, [each], embeddings)
        torch.testing.assert_close(logits, alone, atol=1e-3, rtol=1e-3)
    assert len({tuple((logits > 0).flatten().tolist()) for logits in together}) > 9


def test_profile_chooses_the_heads() -> None:
    """One head looks at the phrase's cell, two at another."""
    geometry = square_geometry(8)
    maps = look_at(geometry, 1, 1).repeat(1, 2, 1, 1, 1)[:, :3]
    maps[:, 1:, 0] = maps[:, 1:, 0].flip(-1)
    traced = [(phrase_of(0), build_trace(maps, geometry))]
    profile = Profile(1, 3, 1, "lmm", "llava", (1.0, 0.0, 0.0), 4, True)
    without, with_head = (
        predict(TrainingFreeMasks(None, each), traced)[0] > 0 for each in (None, profile)
    )
    assert with_head[24, 24]
    assert not with_head[24, 104]
    assert without[24, 104]
    for weight in (0.5, 1e-300):
        all_heads = replace(profile, head_weights=(weight,) * 3)
        assert torch.equal(predict(TrainingFreeMasks(None, all_heads), traced)[0] > 0, without)
