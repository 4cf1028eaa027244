import pytest
import torch
from synthetic_traces import build_trace, phrase_of, random_maps
from torch import Tensor

from flmm.training_free.contrast import (
    compute_contrast_maps,
    measure_head_agreement,
    needs_reference,
    weigh_by_consensus,
)
from flmm.types import ImageGeometry

CELLS = 8
SINK, TARGET = (0, 0), (5, 2)


def peak(maps: Tensor) -> tuple[int, int]:
    """Return the (row, column) of the maximum of one (h, w) map."""
    row, column = divmod(int(maps.argmax()), maps.shape[1])
    return row, column


def maps_with_sink(tokens: int) -> Tensor:
    """Return (2, 3, tokens, 8, 8): all look at the sink most, the first at its target."""
    maps = 0.1 * random_maps(2, 3, tokens, CELLS, CELLS)
    maps[..., *SINK] = 0.4
    maps[:, :, 0, *TARGET] = 0.1
    return maps


def test_what_every_word_looks_at_cancels_out() -> None:
    trace = build_trace(maps_with_sink(4))
    maps = compute_contrast_maps([(phrase_of(0), trace)])
    assert peak(maps.log[0]) == peak(maps.rectified[0]) == TARGET
    assert maps.rectified[0, *SINK] < 0.05 * maps.rectified[0, *TARGET]
    # Without other words there is nothing that tells the sink from the target.
    alone = compute_contrast_maps([(phrase_of(0), build_trace(maps_with_sink(1)))])
    assert peak(alone.log[0]) == peak(alone.rectified[0]) == SINK


def test_other_phrases_are_the_reference_where_there_are_some() -> None:
    """Words between the phrases that look at the same place as a phrase do not matter then."""
    maps = maps_with_sink(3)
    changed = maps.clone()
    changed[:, :, 2] = changed[:, :, 0]
    first, second = phrase_of(0), phrase_of(1)
    found, same = (
        compute_contrast_maps([(first, trace), (second, trace)])
        for trace in (build_trace(maps), build_trace(changed))
    )
    assert torch.equal(found.log, same.log)
    assert torch.equal(found.rectified, same.rectified)
    alone, other = (
        compute_contrast_maps([(first, trace)])
        for trace in (build_trace(maps), build_trace(changed))
    )
    assert not torch.allclose(alone.rectified, other.rectified)


def test_phrases_of_other_texts_are_no_reference() -> None:
    first, second = build_trace(maps_with_sink(4)), build_trace(random_maps(2, 3, 2, CELLS, CELLS))
    together = compute_contrast_maps([(phrase_of(0), first), (phrase_of(1), second)])
    for index, traced in enumerate([(phrase_of(0), first), (phrase_of(1), second)]):
        alone = compute_contrast_maps([traced])
        assert torch.equal(together.log[index], alone.log[0])
        assert torch.equal(together.rectified[index], alone.rectified[0])


def test_phrase_that_is_the_whole_text_is_compared_with_the_reference() -> None:
    maps = maps_with_sink(3)
    in_text = build_trace(maps)
    whole = build_trace(maps[:, :, :1], reference=maps[:, :, 1:])
    phrase = phrase_of(0)
    assert needs_reference(phrase, whole)
    assert not needs_reference(phrase, in_text)
    expected, found = (compute_contrast_maps([(phrase, trace)]) for trace in (in_text, whole))
    torch.testing.assert_close(found.log, expected.log)
    torch.testing.assert_close(found.rectified, expected.rectified)


def test_consensus_ignores_heads_of_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    signal = torch.zeros(CELLS, CELLS)
    signal[3:6, 1:4] = 1
    maps = torch.randn(24, 1, CELLS, CELLS, generator=generator)
    maps[:8] = signal + 0.1 * maps[:8]
    merged, correlations = weigh_by_consensus(maps)
    assert correlations[:8].min() > correlations[8:].max()

    def likeness(found: Tensor) -> float:
        return float(torch.corrcoef(torch.stack([found.flatten(), signal.flatten()]))[0, 1])

    assert likeness(merged) > 0.97 > likeness(maps.mean(dim=(0, 1)))


def test_head_weights_choose_heads() -> None:
    maps = random_maps(2, 3, 3, CELLS, CELLS)
    maps[:, :, 0, *TARGET] = 0.3
    only = compute_contrast_maps([(phrase_of(0), build_trace(maps[1:, 1:2]))])
    weights = torch.zeros(6)
    weights[1 * 3 + 1] = 0.5
    chosen = compute_contrast_maps([(phrase_of(0), build_trace(maps))], weights)
    torch.testing.assert_close(chosen.log, only.log)
    torch.testing.assert_close(chosen.rectified, only.rectified)
    least = compute_contrast_maps([(phrase_of(0), build_trace(maps))], weights * 1e-25)
    torch.testing.assert_close(least.log, only.log)
    torch.testing.assert_close(least.rectified, only.rectified)
    alike, none = (
        compute_contrast_maps([(phrase_of(0), build_trace(maps))], each)
        for each in (torch.full((6,), 0.3), None)
    )
    torch.testing.assert_close(alike.log, none.log)
    torch.testing.assert_close(alike.rectified, none.rectified)
    assert not torch.allclose(chosen.log, none.log)


def test_heads_that_a_profile_weighs_are_not_outvoted() -> None:
    """Of 24 heads, two look at the phrase's place, the others alike at a sink."""
    maps = torch.zeros(24, 1, CELLS, CELLS)
    maps[:22, :, *SINK] = 1
    maps[22:, :, *TARGET] = 1
    weights = torch.tensor([0.003] * 22 + [0.6, 0.5])
    assert peak(weigh_by_consensus(maps)[0]) == SINK
    merged, correlations = weigh_by_consensus(maps, weights)
    assert peak(merged) == TARGET
    assert correlations[22:].min() > correlations[:22].max()
    attention = maps.reshape(2, 12, 1, CELLS, CELLS) + 0.01
    traced = [(phrase_of(0), build_trace(attention / attention.sum(dim=(-2, -1), keepdim=True)))]
    assert peak(compute_contrast_maps(traced).rectified[0]) == SINK
    assert peak(compute_contrast_maps(traced, weights).rectified[0]) == TARGET


def test_heads_mean_takes_the_root_of_the_weights() -> None:
    """So that heads of a quarter of the weight still say where the rest of a region is."""
    maps = torch.zeros(1, 2, 1, CELLS, CELLS)
    maps[0, 0, 0][TARGET] = maps[0, 1, 0][SINK] = 1
    found = compute_contrast_maps([(phrase_of(0), build_trace(maps))], torch.tensor([0.8, 0.2]))
    assert float(found.rectified[0][TARGET]) == pytest.approx(2 / 3)
    assert float(found.rectified[0][SINK]) == pytest.approx(1 / 3)


def test_agreement_with_masks_tells_heads_apart() -> None:
    """Head 0 looks at the phrase's thing, head 1 around it, head 2 anywhere."""
    thing = torch.zeros(CELLS, CELLS, dtype=torch.bool)
    thing[2:5, 3:7] = True
    maps = random_maps(1, 3, 2, CELLS, CELLS)
    maps[0, 0, 0][thing] *= 10
    maps[0, 1, 0][~thing] *= 10
    trace = build_trace(maps / 10)
    mask = thing.repeat_interleave(16, 0).repeat_interleave(16, 1)
    (agreement,) = measure_head_agreement([(phrase_of(0), trace)], [mask])
    assert agreement[0] > 0.6
    assert agreement[1] < -0.6
    assert abs(agreement[2]) < 0.4


def test_agreement_is_measured_where_the_picture_is() -> None:
    """What heads look at in the padding below a landscape picture does not count."""
    geometry = ImageGeometry((32, 64), (64, 128), (0, 0), (128, 128), (CELLS, CELLS))
    mask = torch.zeros(32, 64, dtype=torch.bool)
    mask[:, :16] = True
    maps = 0.1 * random_maps(1, 2, 2, CELLS, CELLS)
    maps[0, :, 0, :4, :2] *= 10
    maps[0, 1, 0, 4:, 4:] *= 10
    padded = build_trace(maps, geometry)
    (agreement,) = measure_head_agreement([(phrase_of(0), padded)], [mask])
    assert agreement.min() > 0.6


def test_agreement_without_masks_is_with_the_other_heads() -> None:
    maps = 0.1 * random_maps(1, 5, 2, CELLS, CELLS)
    maps[0, :4, 0, 2:5, 3:7] *= 10
    maps[0, 4, 0, 6:, :2] *= 10
    (agreement,) = measure_head_agreement([(phrase_of(0), build_trace(maps))])
    assert agreement[:4].min() > 0.6
    assert agreement[4] < 0.3
