"""A published head of LLaVA-NeXT reads the coarse view's maps first, then the fine view's.

The reference takes transformers' eager attention and the image tokens of the prompt as they stand:
the coarse view's square, then the fine view's rows, each with a newline token at its end.
"""

from collections.abc import Callable

import pytest
import torch
from contract_helpers import eager_reference, noise_picture
from official_checkpoint import official_state
from PIL import Image
from tiny_head import tiny_segmenter
from torch import Tensor
from torch.nn import functional

from flmm.grounding.given_text import build_text_prompt
from flmm.grounding.grounder import Grounder
from flmm.head.conversion import convert_official_checkpoint
from flmm.head.model import GroundingHead
from flmm.lmm.architecture import LMMArchitecture
from flmm.lmm.families.llava_next import LlavaNextAdapter
from flmm.types import Size

COARSE_SIDE = 4
TEXT = "the cat and the dog"
FIRST_WEIGHT = "mask_head.encoder.0.0.convs.0.conv.weight"

Channels = Callable[[Tensor, Tensor], Tensor]
"""How a decoder's (2·M·N, h, w) are made of (M·N, s, s) and of (M·N, h, w + 1)."""


def enlarge(coarse: Tensor, size: Size) -> Tensor:
    return functional.interpolate(coarse[None], size, mode="bilinear")[0]


def official_channels(coarse: Tensor, fine: Tensor) -> Tensor:
    fine = fine[..., :-1]
    return torch.cat([enlarge(coarse, (fine.shape[1], fine.shape[2])), fine])


def swapped_halves(coarse: Tensor, fine: Tensor) -> Tensor:
    return official_channels(coarse, fine).roll(len(coarse), dims=0)


def coarse_not_enlarged(coarse: Tensor, fine: Tensor) -> Tensor:
    fine = fine[..., :-1]
    rows, columns = fine.shape[1] - coarse.shape[1], fine.shape[2] - coarse.shape[2]
    return torch.cat([functional.pad(coarse, (0, columns, 0, rows)), fine])


def newlines_kept(coarse: Tensor, fine: Tensor) -> Tensor:
    return torch.cat([enlarge(coarse, (fine.shape[1], fine.shape[2])), fine])


@pytest.fixture(scope="module")
def adapter() -> LlavaNextAdapter:
    return LlavaNextAdapter.build_tiny()


def build_head(adapter: LlavaNextAdapter, half: str) -> GroundingHead:
    """Convert a checkpoint whose U-Net reads only one half of its channels, or both."""
    torch.manual_seed(1)
    maps = adapter.layers * adapter.heads
    state = official_state(2 * maps, adapter.layers, adapter.hidden_size)
    # Otherwise some random masks would have no or all pixels, and differ in none.
    state["mask_head.conv_seg.bias"] = torch.zeros(1)
    if half == "coarse":
        state[FIRST_WEIGHT][:, maps:] = 0
    elif half == "fine":
        state[FIRST_WEIGHT][:, :maps] = 0
    return convert_official_checkpoint(
        state,
        segmenter=tiny_segmenter(),
        base_architecture=LMMArchitecture.of(adapter),
        upsample_input=16,
    )


@torch.no_grad()
def reference_mask(
    adapter: LlavaNextAdapter,
    head: GroundingHead,
    picture: Image.Image,
    grid: Size,
    channels: Channels,
) -> Tensor:
    """Return the (H, W) mask of all words of ``TEXT``, by the decoder alone."""
    prompt = build_text_prompt(adapter, head.config.prompt_templates, picture, TEXT)
    ids = prompt.inputs["input_ids"][0]
    image_tokens = (ids == adapter.image_token_id).nonzero().flatten()
    rows, _ = eager_reference(adapter, prompt, prompt.answer_start, len(ids) - prompt.answer_start)
    maps = rows.mean(dim=2).flatten(0, 1)[:, image_tokens]
    num_coarse = COARSE_SIDE**2
    coarse = maps[:, :num_coarse].reshape(-1, COARSE_SIDE, COARSE_SIDE)
    fine = maps[:, num_coarse:].reshape(-1, grid[0], grid[1] + 1)
    logits = head.mask_decoder(channels(coarse, fine)[None])
    size = (picture.height, picture.width)
    return functional.interpolate(logits, size, mode="bilinear")[0, 0] > 0


@pytest.mark.parametrize("half", ["coarse", "fine", "both"])
@pytest.mark.parametrize(("size", "grid"), [((48, 48), (8, 8)), ((96, 32), (4, 12))])
def test_masks_are_those_of_the_official_channels(
    adapter: LlavaNextAdapter, half: str, size: Size, grid: Size
) -> None:
    head, picture = build_head(adapter, half), noise_picture(*size)
    (phrase,) = Grounder(adapter, head).ground(picture, TEXT, [TEXT], refine=False).phrases
    mask = torch.from_numpy(phrase.mask)
    expected = reference_mask(adapter, head, picture, grid, official_channels)
    assert 0.02 < expected.float().mean() < 0.98
    # A logit at the border may round to the other side.
    assert (mask != expected).float().mean() < 0.002
    mistakes = [swapped_halves]
    if half != "fine":
        mistakes.append(coarse_not_enlarged)
    if half != "coarse":
        mistakes.append(newlines_kept)
    for mistake in mistakes:
        other = reference_mask(adapter, head, picture, grid, mistake)
        assert (other != expected).float().mean() > 0.02, mistake.__name__
