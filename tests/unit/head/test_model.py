import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_head import (
    CONFIG,
    CROPPED,
    LARGE,
    PADDED,
    SQUARE,
    HeadInputs,
    head_inputs,
    random_picture,
    tiny_head,
    tiny_segmenter,
)

import flmm
from flmm.attention.merge import merge_token_maps
from flmm.errors import InputError
from flmm.head.model import GroundingHead, HeadOutput
from flmm.train.losses import mask_loss
from flmm.types import ImageGeometry


def run(head: GroundingHead, given: HeadInputs, geometry: ImageGeometry = SQUARE) -> HeadOutput:
    output: HeadOutput = head(
        given.attention, given.hidden_states, geometry, given.image_embeddings
    )
    return output


@pytest.mark.parametrize(
    ("geometry", "decoded"),
    [(SQUARE, (16, 16)), (PADDED, (11, 16)), (CROPPED, (16, 16)), (LARGE, (8, 25))],
)
def test_output_shapes(geometry: ImageGeometry, decoded: tuple[int, int]) -> None:
    head = tiny_head()
    output = run(head, head_inputs(head, geometry), geometry)
    assert output.mask_logits.shape == (4, *decoded)
    assert output.refined_logits.shape == (4, *geometry.picture)


def test_phrases_in_one_batch_equal_single_phrases() -> None:
    head = tiny_head()
    given = head_inputs(head)
    together = run(head, given)
    for phrase in range(4):
        alone = run(
            head,
            HeadInputs(
                given.attention[[phrase]], [given.hidden_states[phrase]], given.image_embeddings
            ),
        )
        torch.testing.assert_close(together.mask_logits[[phrase]], alone.mask_logits)
        torch.testing.assert_close(
            together.refined_logits[[phrase]], alone.refined_logits, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("switch", ["use_mask", "use_box", "use_text"])
def test_each_prompt_changes_the_refined_mask_only(switch: str) -> None:
    with_all, without = tiny_head(), tiny_head(**{switch: False})
    given = head_inputs(with_all)
    before, after = run(with_all, given), run(without, given)
    assert torch.equal(before.mask_logits, after.mask_logits)
    assert (before.refined_logits - after.refined_logits).abs().max() > 1e-3


def test_text_prompt_is_the_layer_weighted_sum_of_hidden_states() -> None:
    head = tiny_head()
    states = head_inputs(head).hidden_states
    weights = head.layer_weights.exp() / head.layer_weights.exp().sum()
    for prompt, state in zip(head.text_prompts(states), states, strict=True):
        for token in range(state.shape[1]):
            mixed = sum(weights[layer] * state[layer, token] for layer in range(2))
            torch.testing.assert_close(prompt[token], head.text_projection(mixed))


def test_training_step_changes_only_trainable_weights() -> None:
    head = tiny_head()
    geometry = PADDED
    given = head_inputs(head, geometry)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in head.parameters() if p.requires_grad], lr=1e-2)
    output = head(
        given.attention,
        given.hidden_states,
        geometry,
        head.refiner.encode(random_picture(32, 48), random_picture(32, 48, seed=1)),
        torch.tensor([0, 1, 1, 0]),
        resolution="low",
    )
    assert output.refined_logits.shape == (4, 21, 32)
    loss = mask_loss(output.mask_logits, torch.ones(4, 11, 16)) + mask_loss(
        output.refined_logits, torch.ones(4, 21, 32)
    )
    torch.autograd.backward(loss)
    optimizer.step()
    trained = {name for name, p in head.named_parameters() if p.requires_grad}
    changed = {
        name for name, tensor in head.state_dict().items() if not torch.equal(tensor, before[name])
    }
    # A key's bias shifts all scores of a softmax alike, so its gradient is only rounding error.
    assert {name for name in trained ^ changed if not name.endswith("k_proj.bias")} == set()
    assert {"layer_weights", "text_projection.weight", "mask_decoder.classifier.weight"} < changed
    assert any(name.startswith("refiner.sam.prompt_encoder.mask_embed") for name in changed)
    assert any(name.startswith("refiner.sam.mask_decoder.transformer") for name in changed)
    assert not any("vision_encoder" in name for name in changed)


def test_bfloat16_autocast_is_close_to_float32() -> None:
    head = tiny_head()
    given = head_inputs(head)
    exact = run(head, given).mask_logits
    with torch.autocast("cpu", torch.bfloat16):
        output = run(head, given)
    assert output.refined_logits.isfinite().all()
    assert (output.mask_logits - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_whole_head_runs_in_bfloat16() -> None:
    head = tiny_head().to(torch.bfloat16)
    assert run(head, head_inputs(head)).refined_logits.isfinite().all()


def test_selector_scores_every_token() -> None:
    head = tiny_head(selector=True)
    assert head.keyword_logits(torch.randn(2, 7, 10)).shape == (7,)
    with pytest.raises(InputError, match="no keyword selector"):
        tiny_head().keyword_logits(torch.randn(2, 7, 10))


def test_wrong_inputs_raise_input_error() -> None:
    head = tiny_head()
    given = head_inputs(head)
    with pytest.raises(InputError, match=r"4 phrases.*3"):
        run(head, replace(given, hidden_states=given.hidden_states[:3]))
    with pytest.raises(InputError, match="at least one"):
        run(head, replace(given, attention=given.attention[:0], hidden_states=[]))
    with pytest.raises(InputError, match="6"):
        run(head, replace(given, attention=given.attention[:, :4]))
    with pytest.raises(InputError, match=r"\(2, tokens, 10\)"):
        run(head, replace(given, hidden_states=[torch.randn(3, 1, 10)] * 4))


@pytest.mark.parametrize(
    "change",
    [{"layers": 0}, {"heads": -1}, {"views": True}, {"merge": "median"}, {"selector_threshold": 2}],
)
def test_wrong_config_raises_input_error(change: dict[str, int | str]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        replace(CONFIG, **change)  # type: ignore[arg-type]


def test_tiled_lmm_has_two_views() -> None:
    head = GroundingHead(replace(CONFIG, views=2), tiny_segmenter())
    assert head.mask_decoder.in_channels == 2 * 2 * 3


def test_merge_is_layer_by_layer() -> None:
    attention = torch.rand(2, 3, 5, 4, 6)
    mean = merge_token_maps(attention[:, :, [1, 4]])
    assert mean.shape == (6, 4, 6)
    torch.testing.assert_close(mean[4], (attention[1, 1, 1] + attention[1, 1, 4]) / 2)
    largest = merge_token_maps(attention[:, :, [1, 4]], "max")
    assert torch.equal(largest[4], torch.maximum(attention[1, 1, 1], attention[1, 1, 4]))


def test_phrase_without_tokens_raises_input_error() -> None:
    with pytest.raises(InputError, match="no token"):
        merge_token_maps(torch.rand(2, 3, 0, 4, 6))


@pytest.mark.parametrize(
    "module",
    [
        "head/model.py",
        "head/checkpoint.py",
        "head/conversion.py",
        "masks/refiner.py",
        "masks/selector.py",
        "masks/kmeans.py",
    ],
)
def test_head_modules_do_not_import_slow_packages(module: str) -> None:
    source = (Path(flmm.__path__[0]) / module).read_text()
    names = {
        name
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Import | ast.ImportFrom)
        for name in (
            [statement.module or ""]
            if isinstance(statement, ast.ImportFrom)
            else [alias.name for alias in statement.names]
        )
    }
    packages = {name.split(".")[0] for name in names}
    assert "torch" in packages
    assert not packages & {"sklearn", "scipy", "huggingface_hub"}
