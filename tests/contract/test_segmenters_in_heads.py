"""Every family of Segment Anything models refines the masks of a head: trained, saved, loaded."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_head import CONFIG, PADDED, SQUARE, HeadInputs, head_inputs, random_picture, scramble
from torch import Tensor

from flmm.head.checkpoint import load_head, save_head
from flmm.head.model import GroundingHead
from flmm.masks.refiner import MaskRefiner
from flmm.segmenters.base import Segmenter
from flmm.train.losses import mask_loss
from flmm.types import ImageGeometry


@pytest.fixture
def head(segmenter: Segmenter) -> GroundingHead:
    built = GroundingHead(CONFIG, segmenter)
    scramble(built)
    return built.eval()


def refine(head: GroundingHead, inputs: HeadInputs, geometry: ImageGeometry = PADDED) -> Tensor:
    logits: Tensor = head(
        inputs.attention, inputs.hidden_states, geometry, inputs.image_embeddings
    ).refined_logits
    return logits


@pytest.mark.parametrize("geometry", [PADDED, SQUARE])
def test_masks_have_the_pictures_size(head: GroundingHead, geometry: ImageGeometry) -> None:
    inputs = head_inputs(head, geometry)
    logits = refine(head, inputs, geometry)
    assert logits.shape == (4, *geometry.picture)
    assert logits.isfinite().all()
    assert not torch.allclose(logits[0], logits[1])


def test_one_training_step_changes_what_is_saved(head: GroundingHead, tmp_path: Path) -> None:
    inputs = head_inputs(head, PADDED)
    # As a user would: the SAM that the head names is loaded again, the trained weights on top.
    head.refiner.sam.save_pretrained(tmp_path / "sam")
    untrained = refine(head, inputs)
    optimizer = torch.optim.SGD(
        [weight for weight in head.parameters() if weight.requires_grad], lr=0.01
    )
    frozen = {name: weight.clone() for name, weight in head.named_parameters()
              if not weight.requires_grad}  # fmt: skip
    head.train()
    low = head(
        inputs.attention, inputs.hidden_states, PADDED, inputs.image_embeddings, None, "low"
    ).refined_logits
    mask_loss(low, torch.ones_like(low), "sum").backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    head.eval()
    for name, weight in head.named_parameters():
        assert name not in frozen or torch.equal(weight, frozen[name]), name
    trained = refine(head, inputs)
    assert not torch.allclose(trained, untrained)

    head.config = replace(CONFIG, refiner_name_or_path="sam")
    save_head(head, tmp_path)
    loaded = load_head(tmp_path)
    # Not bit for bit: read weights lie elsewhere in memory, which changes the order of sums.
    torch.testing.assert_close(refine(loaded, inputs), trained, atol=1e-4, rtol=1e-4)
    embeddings = loaded.refiner.encode(random_picture(*PADDED.picture)).tensors
    for found, expected in zip(embeddings, inputs.image_embeddings.tensors, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("unused", ["", "use_mask", "use_box", "use_text"])
def test_every_trainable_weight_gets_a_gradient(segmenter: Segmenter, unused: str) -> None:
    refiner = MaskRefiner(segmenter, **({unused: False} if unused else {}))
    embeddings = refiner.encode(random_picture(32, 48))
    generator = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(4, 11, 16, generator=generator)
    text = [torch.randn(tokens, 16, generator=generator) for tokens in (2, 1, 3, 1)]
    refiner(logits, text, PADDED, embeddings).sum().backward()
    for name, parameter in refiner.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
        assert not (parameter.requires_grad and "vision_encoder" in name)


def test_training_does_not_change_what_the_picture_is_encoded_to(head: GroundingHead) -> None:
    picture = random_picture(*PADDED.picture)
    before = head.refiner.encode(picture).tensors
    head.train()
    for seed in range(3):
        head.refiner.encode(random_picture(*PADDED.picture, seed=seed))
    for found, expected in zip(head.refiner.encode(picture).tensors, before, strict=True):
        assert torch.equal(found, expected)


def test_copied_head_gives_the_same_masks_of_its_own_weights(head: GroundingHead) -> None:
    inputs = head_inputs(head, PADDED)
    expected = refine(head, inputs)
    copy = deepcopy(head)
    torch.nn.init.zeros_(head.refiner.sam.get_submodule("mask_decoder.mask_tokens").weight)  # type: ignore[arg-type]
    assert torch.equal(refine(copy, inputs), expected)
    assert not torch.equal(refine(head, inputs), expected)
