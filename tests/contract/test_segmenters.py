"""What every family of Segment Anything models keeps; a new one is found and tested."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tiny_head import random_picture, scramble
from torch import Tensor

from flmm.errors import InputError
from flmm.lmm.model_families import ModelFamily
from flmm.segmenters.auto import (
    list_segmenter_families,
    load_segmenter,
    load_segmenter_class,
)
from flmm.segmenters.base import Segmenter
from flmm.segmenters.precision import Precision
from flmm.segmenters.prompts import PictureEmbeddings, SegmenterPrompts

WIDE, TALL = (30, 50), (50, 30)
POINTS = torch.tensor([[[5.0, 7.0], [20.0, 3.0]], [[10.0, 25.0], [1.0, 1.0]], [[29.0, 29.0]] * 2])
LABELS = torch.tensor([[1, 0], [1, 1], [0, 1]])
BOXES = torch.tensor([[2.0, 3.0, 20.0, 25.0], [0.0, 0.0, 30.0, 30.0], [7.0, 1.0, 9.0, 29.0]])


def random_mask_logits(segmenter: Segmenter) -> Tensor:
    side = segmenter.low_resolution_side
    return 3 * torch.randn(3, side, side, generator=torch.Generator().manual_seed(4))


def make_prompts(kind: str, segmenter: Segmenter) -> SegmenterPrompts:
    return SegmenterPrompts(
        points=POINTS if "point" in kind else None,
        point_labels=LABELS if "point" in kind else None,
        boxes=BOXES if "box" in kind else None,
        mask_logits=random_mask_logits(segmenter) if "mask" in kind else None,
    )


def call_transformers(
    segmenter: Segmenter, picture: NDArray[np.uint8], prompts: SegmenterPrompts, multimask: bool
) -> tuple[Tensor, Tensor]:
    """Masks and scores of transformers' own forward, one phrase a call."""
    height, width = picture.shape[:2]
    resized_height, resized_width = segmenter.resized_size((height, width))
    scale = torch.tensor([resized_width / width, resized_height / height] * 2)
    inputs = {
        "input_points": None if prompts.points is None else prompts.points * scale[:2],
        "input_labels": prompts.point_labels,
        "input_boxes": None if prompts.boxes is None else prompts.boxes * scale,
        "input_masks": prompts.mask_logits,
    }
    masks, scores = [], []
    for phrase in range(3):
        output = segmenter.sam(
            pixel_values=segmenter.preprocess(picture)[None],
            multimask_output=multimask,
            **{
                name: tensor[phrase][None, None]
                for name, tensor in inputs.items()
                if tensor is not None
            },
        )
        masks.append(output.pred_masks[0, 0])
        scores.append(output.iou_scores[0, 0])
    return torch.stack(masks), torch.stack(scores)


@pytest.mark.parametrize("size", [WIDE, TALL])
@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("kind", ["point", "box", "box+point", "box+mask"])
def test_masks_are_those_of_transformers(
    segmenter: Segmenter, kind: str, multimask: bool, size: tuple[int, int]
) -> None:
    picture, prompts = random_picture(*size), make_prompts(kind, segmenter)
    with torch.no_grad():
        found = segmenter.decode(segmenter.encode(picture), size, prompts, multimask)
        masks, scores = call_transformers(segmenter, picture, prompts, multimask)
    assert found.logits.shape[1] == (3 if multimask else 1)
    torch.testing.assert_close(found.logits, masks, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.scores, scores, atol=1e-3, rtol=1e-3)


def test_bfloat16_moves_no_prompt_and_changes_masks_little(segmenter: Segmenter) -> None:
    picture, prompts = random_picture(*WIDE), make_prompts("box+point+mask", segmenter)
    sparse: list[Tensor] = []

    def keep_sparse_prompts(_module: object, _inputs: object, named: dict[str, Tensor]) -> None:
        sparse.append(named["sparse_prompt_embeddings"])

    segmenter.mask_decoder.register_forward_pre_hook(keep_sparse_prompts, with_kwargs=True)
    found, embeddings = [], []
    for precision in (Precision(), Precision(torch.bfloat16), Precision()):
        segmenter.precision = precision
        embeddings.append(segmenter.encode(picture))
        with torch.no_grad():
            found.append(segmenter.decode(embeddings[-1], WIDE, prompts, True))
    exact, half, again = found
    assert not torch.equal(embeddings[0].tensors[0], embeddings[1].tensors[0].float())
    assert torch.equal(sparse[0], sparse[1])
    for name in ("logits", "scores"):
        expected, values = getattr(exact, name), getattr(half, name)
        assert values.dtype == torch.float32
        assert not torch.equal(values, expected)
        assert (values - expected).abs().mean() < 0.05 * expected.abs().mean()
    assert torch.equal(again.logits, exact.logits)
    assert all(weight.dtype == torch.float32 for weight in segmenter.parameters())


def test_first_mask_is_always_given_on_demand(segmenter: Segmenter) -> None:
    embeddings, prompts = segmenter.encode(random_picture(*WIDE)), make_prompts("box", segmenter)
    segmenter.always_give_first_mask()
    with torch.no_grad():
        expected = segmenter.decode(embeddings, WIDE, prompts).logits
        for other in (1, 2, 3):
            name = f"output_hypernetworks_mlps.{other}"
            scramble(segmenter.mask_decoder.get_submodule(name), seed=1)
        found = segmenter.decode(embeddings, WIDE, prompts).logits
    assert torch.equal(found, expected)


def test_a_mask_alone_and_no_prompt_at_all_give_masks(segmenter: Segmenter) -> None:
    embeddings = segmenter.encode(random_picture(*WIDE))
    with torch.no_grad():
        nothing = segmenter.decode(embeddings, WIDE, SegmenterPrompts())
        mask = segmenter.decode(embeddings, WIDE, make_prompts("mask", segmenter))
    side = segmenter.low_resolution_side
    assert nothing.logits.shape == (1, 1, side, side)
    assert mask.logits.shape == (3, 1, side, side)
    assert not torch.allclose(mask.logits[:1], nothing.logits)


def test_pictures_of_any_size_are_encoded_together(segmenter: Segmenter) -> None:
    first, second = random_picture(*WIDE), random_picture(*TALL, seed=1)
    together = segmenter.encode(first, second)
    assert len(together) == 2
    assert together.tensors[0].shape[1:] == (
        segmenter.hidden_size, segmenter.embedding_side, segmenter.embedding_side
    )  # fmt: skip
    assert not any(tensor.requires_grad for tensor in together.tensors)
    for picture, alone in zip((first, second), together.split(), strict=True):
        for found, expected in zip(alone.tensors, segmenter.encode(picture).tensors, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_images_are_encoded_as_their_arrays_are(segmenter: Segmenter) -> None:
    picture = random_picture(*WIDE)
    found = segmenter.encode(Image.fromarray(picture))
    for tensor, expected in zip(found.tensors, segmenter.encode(picture).tensors, strict=True):
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0)


def test_phrases_of_several_pictures_equal_those_of_each(segmenter: Segmenter) -> None:
    embeddings = segmenter.encode(random_picture(*WIDE), random_picture(*WIDE, seed=1))
    owner = torch.tensor([1, 0, 1])
    extra = [torch.randn(tokens, segmenter.hidden_size) for tokens in (2, 1, 2)]
    masks = random_mask_logits(segmenter)
    with torch.no_grad():
        together = segmenter.decode(
            embeddings, WIDE, SegmenterPrompts(POINTS, LABELS, BOXES, masks, extra), True, owner
        )
        for phrase in range(3):
            one = slice(phrase, phrase + 1)
            prompts = SegmenterPrompts(
                POINTS[one], LABELS[one], BOXES[one], masks[one], extra[phrase][None]
            )
            alone = segmenter.decode(embeddings.select(owner[one]), WIDE, prompts, True)
            torch.testing.assert_close(together.logits[one], alone.logits, atol=1e-3, rtol=1e-3)
            torch.testing.assert_close(together.scores[one], alone.scores, atol=1e-3, rtol=1e-3)


def test_one_row_a_phrase_needs_no_picture_indices(segmenter: Segmenter) -> None:
    embeddings = segmenter.encode(*(random_picture(*WIDE, seed=seed) for seed in range(3)))
    prompts = make_prompts("box", segmenter)
    with torch.no_grad():
        found = segmenter.decode(embeddings, WIDE, prompts)
        expected = segmenter.decode(embeddings, WIDE, prompts, False, torch.arange(3))
    assert torch.equal(found.logits, expected.logits)


@pytest.mark.parametrize("kind", ["", "box"])
def test_extra_prompts_change_the_mask_and_get_a_gradient(segmenter: Segmenter, kind: str) -> None:
    embeddings = segmenter.encode(random_picture(*WIDE))
    extra = torch.randn(3, 2, segmenter.hidden_size, requires_grad=True)
    boxes = BOXES if kind else None
    with_extra = segmenter.decode(embeddings, WIDE, SegmenterPrompts(boxes=boxes, extra=extra))
    assert not torch.allclose(with_extra.logits[0], with_extra.logits[1])
    if kind:
        without = segmenter.decode(embeddings, WIDE, SegmenterPrompts(boxes=boxes))
        assert not torch.allclose(with_extra.logits, without.logits)
    with_extra.logits.sum().backward()  # type: ignore[no-untyped-call]
    assert extra.grad is not None
    assert extra.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [WIDE, TALL, (33, 33)])
def test_picture_lies_where_it_was_encoded(segmenter: Segmenter, size: tuple[int, int]) -> None:
    # A pattern over the whole input: the padding, if any, is marked by a large negative value.
    height, width = segmenter.resized_size(size)
    side, low = segmenter.input_side, segmenter.low_resolution_side
    assert max(height, width) == side
    logits = torch.full((1, low, low), -50.0)
    logits[:, : round(height * low / side), : round(width * low / side)] = 1.0
    cut = segmenter.cut_to_picture(logits, size)
    assert cut.min() == 1
    assert max(cut.shape[1:]) == low
    upsampled = segmenter.upsample_to_picture(logits, size)
    assert upsampled.shape == (1, *size)
    assert (upsampled[:, : size[0] - 2, : size[1] - 2] > 0).all()


def test_wrong_pictures_and_embeddings_raise_input_error(segmenter: Segmenter) -> None:
    with pytest.raises(InputError, match="float64"):
        segmenter.encode(random_picture(32, 48).astype(np.float64))
    with pytest.raises(InputError, match="at least one"):
        segmenter.encode()
    with pytest.raises(InputError, match="encode the picture"):
        segmenter.decode(PictureEmbeddings((torch.zeros(1, 8, 8, 8),)), WIDE, SegmenterPrompts())
    two = segmenter.encode(random_picture(*WIDE), random_picture(*WIDE))
    with pytest.raises(InputError, match="3 phrases and 2 pictures; give one picture, one for"):
        segmenter.decode(two, WIDE, make_prompts("box", segmenter))


@pytest.mark.parametrize(
    "other", list_segmenter_families(), ids=lambda family: family.model_types[0]
)
def test_embeddings_of_another_family_are_refused_where_shapes_differ(
    segmenter: Segmenter, other: ModelFamily
) -> None:
    encoded = load_segmenter_class(other).build_tiny().encode(random_picture(*WIDE))
    own = segmenter.encode(random_picture(*WIDE))
    assert own.shapes == segmenter.embedding_shapes
    if encoded.shapes == own.shapes:
        segmenter.decode(encoded, WIDE, SegmenterPrompts())
        return
    with pytest.raises(InputError, match="encode the picture with this SAM"):
        segmenter.decode(encoded, WIDE, SegmenterPrompts())


@torch.no_grad()
def test_encoder_weights_are_those_that_change_the_embeddings(segmenter: Segmenter) -> None:
    picture = random_picture(*WIDE)
    expected = segmenter.encode(picture).tensors
    names = {name for name, _ in segmenter.encoder_weights()}
    for name, weight in segmenter.sam.state_dict().items():
        kept = weight.clone()
        weight.copy_(weight + 1)
        found = segmenter.encode(picture).tensors
        changed = not all(map(torch.equal, found, expected))
        assert not changed or name in names, name
        assert changed or name not in names or name.startswith("vision_encoder."), name
        weight.copy_(kept)
    assert 0 < len(names) < len(segmenter.sam.state_dict())


def test_prompts_of_different_phrases_are_refused() -> None:
    with pytest.raises(ValueError, match="different numbers of phrases"):
        SegmenterPrompts(boxes=BOXES, extra=torch.zeros(2, 1, 16))
    with pytest.raises(ValueError, match="together"):
        SegmenterPrompts(points=POINTS)


def test_saved_model_is_loaded_by_its_type(
    segmenter: Segmenter, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("sam")
    segmenter.sam.save_pretrained(folder)
    loaded = load_segmenter(folder).eval()
    assert type(loaded) is type(segmenter)
    picture, prompts = random_picture(*WIDE), make_prompts("box+point", segmenter)
    with torch.no_grad():
        found, expected = (
            each.decode(each.encode(picture), WIDE, prompts).logits for each in (loaded, segmenter)
        )
    torch.testing.assert_close(found, expected)
