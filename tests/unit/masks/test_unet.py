import pytest
import torch
from tiny_head import scramble
from torch.nn import functional

from flmm.errors import InputError
from flmm.masks.unet import MaskDecoder, UpStage
from flmm.masks.upsampling import UpsamplingConvolution, compute_upsampled_size


@pytest.fixture
def decoder() -> MaskDecoder:
    decoder = MaskDecoder(6, base_channels=4, stages=3, upsample_input=16)
    scramble(decoder)
    return decoder


@pytest.mark.parametrize(
    ("grid", "size"),
    [
        ((24, 24), (64, 64)), ((17, 30), (36, 64)), ((30, 7), (64, 14)), ((49, 49), (64, 64)),
        ((64, 64), (64, 64)), ((24, 72), (24, 72)), ((70, 96), (70, 96)),
    ],
)  # fmt: skip
def test_longer_side_is_upsampled_to_64_and_never_downsampled(
    grid: tuple[int, int], size: tuple[int, int]
) -> None:
    decoder = MaskDecoder(2, base_channels=2)
    assert decoder(torch.rand(1, 2, *grid)).shape == (1, 1, *size)


def test_scale_of_a_map_does_not_matter(decoder: MaskDecoder) -> None:
    attention = torch.rand(2, 6, 5, 7)
    scales = torch.tensor([1e-4, 1.0, 3.0, 50.0, 0.1, 7.0])[:, None, None]
    torch.testing.assert_close(decoder(attention * scales), decoder(attention))


def test_phrases_are_decoded_independently(decoder: MaskDecoder) -> None:
    attention = torch.rand(3, 6, 5, 7)
    alone = torch.cat([decoder(attention[phrase : phrase + 1]) for phrase in range(3)])
    torch.testing.assert_close(decoder(attention), alone)


def test_map_of_zeros_gives_finite_logits(decoder: MaskDecoder) -> None:
    attention = torch.rand(1, 6, 5, 7)
    attention[:, 2] = 0
    assert decoder(attention).isfinite().all()


def test_half_precision_attention_is_summed_exactly(decoder: MaskDecoder) -> None:
    attention = torch.rand(1, 6, 64, 64).to(torch.bfloat16)
    sums = decoder.normalise_maps(attention).sum(dim=(2, 3))
    torch.testing.assert_close(sums, torch.ones(1, 6))


@pytest.mark.parametrize("grid", [(24, 24), (5, 7), (7, 5), (49, 13), (70, 81), (1, 1), (1, 9)])
def test_upsampling_convolution_equals_its_separate_steps(grid: tuple[int, int]) -> None:
    convolution = UpsamplingConvolution(6, 4, longer_side=20, pad_multiple=8).double()
    maps = torch.rand(2, 6, *grid, dtype=torch.float64)
    scale = max(20 / max(grid), 1) * (1 + 1e-9)
    large = functional.interpolate(maps, scale_factor=scale, mode="bilinear")
    height, width = large.shape[2:]
    assert compute_upsampled_size(maps, 20) == (height, width)
    large = functional.pad(large, (0, -width % 8, 0, -height % 8))
    expected = functional.conv2d(large, convolution.weight, padding=1)
    torch.testing.assert_close(convolution(maps), expected, atol=1e-5, rtol=0)


def test_projection_before_upsampling_equals_projection_after() -> None:
    stage = UpStage(8, 4)
    scramble(stage)
    coarse, skipped = torch.randn(2, 8, 3, 5), torch.randn(2, 4, 6, 10)
    doubled = functional.interpolate(coarse, scale_factor=2.0, mode="bilinear")
    doubled = functional.relu(stage.norm(stage.project(doubled)))
    expected = stage.convolutions(torch.cat([skipped, doubled], dim=1))
    torch.testing.assert_close(stage(coarse, skipped), expected, atol=1e-5, rtol=1e-5)


def test_every_weight_is_trained(decoder: MaskDecoder) -> None:
    decoder(torch.rand(2, 6, 8, 8)).square().sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_wrong_number_of_maps_raises_input_error(decoder: MaskDecoder) -> None:
    with pytest.raises(InputError, match=r"\(1, 5, 4, 4\).*6"):
        decoder(torch.rand(1, 5, 4, 4))


@pytest.mark.parametrize("sizes", [(0, 64, 4, 64), (6, 0, 4, 64), (6, 64, 0, 64), (6, 64, 4, -1)])
def test_sizes_must_be_positive(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError, match="positive"):
        MaskDecoder(*sizes)
