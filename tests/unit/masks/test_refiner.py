import pytest
import torch
from tiny_head import CROPPED, PADDED, SQUARE, random_picture, tiny_segmenter
from torch import Tensor
from torch.nn import functional

from flmm.masks.refiner import MaskRefiner
from flmm.types import ImageGeometry


@pytest.fixture
def refiner() -> MaskRefiner:
    return MaskRefiner(tiny_segmenter()).eval()


@pytest.fixture
def mask_logits() -> Tensor:
    return 2 * torch.randn(4, 11, 16, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def text_prompts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(6)
    return [torch.randn(tokens, 16, generator=generator) for tokens in (2, 1, 3, 1)]


def test_phrases_of_mixed_length_come_back_in_order(
    refiner: MaskRefiner, text_prompts: list[Tensor]
) -> None:
    # A square picture has no border, the value of which depends on all of a picture's phrases.
    logits = torch.randn(4, 16, 16)
    embeddings = refiner.encode(random_picture(*SQUARE.picture))
    together = refiner(logits, text_prompts, SQUARE, embeddings)
    for phrase in range(4):
        alone = refiner(logits[[phrase]], [text_prompts[phrase]], SQUARE, embeddings)
        torch.testing.assert_close(together[[phrase]], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("geometry", [PADDED, CROPPED])
def test_phrases_of_several_pictures_equal_those_of_each(
    refiner: MaskRefiner,
    mask_logits: Tensor,
    text_prompts: list[Tensor],
    geometry: ImageGeometry,
) -> None:
    embeddings = refiner.encode(random_picture(32, 48), random_picture(32, 48, seed=1))
    owner = torch.tensor([1, 0, 0, 1])
    mask_logits[0] -= 30  # a border value that must not reach the other picture
    together = refiner(mask_logits, text_prompts, geometry, embeddings, owner)
    assert together.shape == (4, 32, 48)
    for index in (0, 1):
        phrases = (owner == index).nonzero().flatten()
        alone = refiner(
            mask_logits[phrases],
            [text_prompts[phrase] for phrase in phrases.tolist()],
            geometry,
            embeddings.select(torch.tensor([index])),
        )
        torch.testing.assert_close(together[phrases], alone, atol=1e-4, rtol=1e-4)


def test_low_resolution_logits_are_those_before_upsampling(
    refiner: MaskRefiner, mask_logits: Tensor, text_prompts: list[Tensor]
) -> None:
    embeddings = refiner.encode(random_picture(*SQUARE.picture))
    low = refiner(mask_logits, text_prompts, SQUARE, embeddings, resolution="low")
    assert low.shape == (4, 32, 32)
    sams_input = functional.interpolate(low[:, None], (64, 64), mode="bilinear")
    expected = functional.interpolate(sams_input, SQUARE.picture, mode="bilinear")[:, 0]
    torch.testing.assert_close(refiner(mask_logits, text_prompts, SQUARE, embeddings), expected)


def test_low_resolution_logits_are_cropped_to_the_picture(
    refiner: MaskRefiner, mask_logits: Tensor, text_prompts: list[Tensor]
) -> None:
    embeddings = refiner.encode(random_picture(32, 48))
    low = refiner(mask_logits, text_prompts, PADDED, embeddings, resolution="low")
    assert low.shape == (4, 21, 32)


def test_box_of_an_empty_mask_is_the_whole_picture(text_prompts: list[Tensor]) -> None:
    refiner = MaskRefiner(tiny_segmenter(), use_mask=False).eval()
    embeddings = refiner.encode(random_picture(32, 48))
    empty = refiner(torch.full((4, 11, 16), -5.0), text_prompts, PADDED, embeddings)
    full = refiner(torch.full((4, 11, 16), 5.0), text_prompts, PADDED, embeddings)
    corner = torch.full((4, 11, 16), -5.0)
    corner[:, :3, :3] = 5.0
    assert torch.equal(empty, full)
    assert not torch.allclose(empty, refiner(corner, text_prompts, PADDED, embeddings))


def test_gradients_reach_prompts_but_not_the_vision_encoder(
    refiner: MaskRefiner, mask_logits: Tensor, text_prompts: list[Tensor]
) -> None:
    embeddings = refiner.encode(random_picture(32, 48))
    mask_logits.requires_grad_()
    text_prompts[2].requires_grad_()
    refiner(mask_logits, text_prompts, PADDED, embeddings, resolution="low").sum().backward()
    assert mask_logits.grad is not None
    assert mask_logits.grad.abs().sum() > 0
    assert text_prompts[2].grad is not None
    for name, parameter in refiner.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
        assert not (parameter.requires_grad and "vision_encoder" in name)


def test_refiner_without_prompts_gives_all_phrases_the_same_mask(mask_logits: Tensor) -> None:
    refiner = MaskRefiner(tiny_segmenter(), use_mask=False, use_box=False, use_text=False)
    embeddings = refiner.encode(random_picture(32, 48))
    refined = refiner(mask_logits, [], PADDED, embeddings)
    assert refined.shape == (4, 32, 48)
    assert torch.equal(refined[0], refined[3])
