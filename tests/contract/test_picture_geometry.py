"""Changing pixels of a picture changes the image tokens that its geometry says."""

import math
from collections.abc import Iterator, Mapping

import pytest
import torch
from contract_helpers import PICTURE_SIZES, image_token_states, noise_picture, text_modules
from PIL import Image
from torch import Tensor, nn

from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Prompt
from flmm.model_check.places import cell_pixel_range


@pytest.fixture
def local_adapter(adapter: LMMAdapter) -> Iterator[LMMAdapter]:
    """The model with vision towers whose patches do not attend to one another.

    With random weights and attention, a spot might change any cell the most.
    """
    llm_modules = text_modules(adapter)
    handles = [
        module.register_forward_hook(zero_attention_output, with_kwargs=True)
        for module in adapter.model.modules()
        if module not in llm_modules
        and is_attention(module)
        # Of attention modules in one another, the outer ones add their input.
        and not any(is_attention(part) for part in module.modules() if part is not module)
    ]
    if not handles:
        # As of an LLM that takes patches as they are.
        check_that_patches_do_not_attend(adapter)
    yield adapter
    for handle in handles:
        handle.remove()


def is_attention(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Attention")


def check_that_patches_do_not_attend(adapter: LMMAdapter) -> None:
    """Check that image tokens stay the same, to the bit, while pixels far from them change."""
    plain = noise_picture(50, 40)
    spotted = plain.copy()
    spotted.paste("white", (0, 0, 10, 10))
    prompt = adapter.build_prompt(plain, "what?")
    before = image_token_states(adapter, prompt)
    after = image_token_states(adapter, adapter.build_prompt(spotted, "what?"))
    is_changed = (after != before).any(dim=-1)[prompt.image_token_positions]
    assert is_changed[0]
    assert not is_changed[len(is_changed) // 2 :].any()


def zero_attention_output(
    _module: nn.Module,
    inputs: tuple[object, ...],
    options: Mapping[str, object],
    output: Tensor | tuple[Tensor, ...],
) -> Tensor | tuple[Tensor, ...]:
    """Replace an attention module's output by zeros, unless it makes one state of a few patches."""
    given = (*inputs, *options.values())
    states = [each for each in given if isinstance(each, Tensor) and each.ndim == 3]
    if len(states) > 1 and states[0].shape[1] == 1 < states[1].shape[1]:
        return output
    if isinstance(output, Tensor):
        return torch.zeros_like(output)
    return (torch.zeros_like(output[0]), *output[1:])


def prepare_or_skip(adapter: LMMAdapter, width: int, height: int) -> Prompt:
    try:
        return adapter.build_prompt(noise_picture(width, height), "what?")
    except InputError as error:
        # Some families leave nothing of very narrow pictures.
        assert max(width, height) > 20 * min(width, height)
        pytest.skip(str(error))


@pytest.mark.parametrize(("width", "height"), PICTURE_SIZES)
def test_geometry_fits_the_model(adapter: LMMAdapter, width: int, height: int) -> None:
    prompt = prepare_or_skip(adapter, width, height)
    # transformers itself compares the numbers of image tokens and image features here.
    image_token_states(adapter, prompt)
    for view in prompt.picture_views[0]:
        geometry = view.geometry
        assert geometry.picture == (height, width)
        visible = [
            min(start + length, canvas) > max(start, 0)
            for start, length, canvas in zip(
                geometry.offset, geometry.resized, geometry.canvas, strict=True
            )
        ]
        assert all(visible)


@pytest.mark.parametrize(("width", "height"), [(50, 40), (33, 97)])
def test_a_spot_in_the_picture_changes_its_own_image_token(
    local_adapter: LMMAdapter, width: int, height: int
) -> None:
    # Dark, so that a bright spot on it is visible after any shrinking.
    plain = noise_picture(width, height).point(lambda value: value // 8)
    base = prepare_or_skip(local_adapter, width, height)
    before = image_token_states(local_adapter, local_adapter.build_prompt(plain, "what?"))
    for view in base.picture_views[0]:
        geometry = view.geometry
        tested = 0
        for row in range(0, geometry.grid[0], math.ceil(geometry.grid[0] / 3)):
            for column in range(0, geometry.grid[1], math.ceil(geometry.grid[1] / 3)):
                tall = cell_pixel_range(geometry, 0, row)
                wide = cell_pixel_range(geometry, 1, column)
                if tall is None or wide is None:
                    continue
                spotted = plain.copy()
                box = (wide[0], tall[0], wide[1], tall[1])
                spotted.paste("white", box)
                after = image_token_states(
                    local_adapter, local_adapter.build_prompt(spotted, "what?")
                )
                change = (after - before)[view.token_positions.flatten()].norm(dim=-1)
                assert divmod(int(change.argmax()), geometry.grid[1]) == (row, column)
                tested += 1
        assert tested or min(geometry.resized) < 2 * max(geometry.canvas) / min(geometry.grid)


@pytest.mark.parametrize(
    "size",
    [
        (300, 1),
        (1, 300),
        (7000, 30),
        (26, 28),
        (1, 1),
        (10, 2000),
        (4000, 10),
        (2000, 9),
        (3, 3000),
    ],
)
def test_pictures_of_extreme_shapes_are_refused_only_where_nothing_is_left_of_them(
    adapter: LMMAdapter, size: tuple[int, int]
) -> None:
    picture = Image.new("RGB", size)
    refusal = None
    try:
        adapter.image_processor(picture, return_tensors="pt")
    except (ValueError, RuntimeError) as error:
        refusal = str(error)
    try:
        prompt = adapter.build_prompt(picture, "What?")
    except InputError as error:
        message = str(error)
        assert f"picture of {size[0]}×{size[1]} pixels" in message
        assert "\n" not in message
        assert refusal in message if refusal is not None else "too narrow" in message
    else:
        # A single pixel may have been shown enlarged.
        assert refusal is None or size == (1, 1)
        assert prompt.image_token_positions.numel() > 0
        # transformers itself compares the numbers of image tokens and image features here.
        image_token_states(adapter, prompt)
