import math

import pytest
import torch
from torch import Tensor

from flmm.train.losses import binary_cross_entropy_loss, dice_loss, mask_loss


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def targets() -> Tensor:
    return torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(2))


def slow_cross_entropy(logits: Tensor, targets: Tensor) -> list[float]:
    losses = []
    for phrase in range(len(logits)):
        total = 0.0
        for x, t in zip(
            logits[phrase].flatten().tolist(), targets[phrase].flatten().tolist(), strict=True
        ):
            probability = 1 / (1 + math.exp(-x))
            total -= t * math.log(probability) + (1 - t) * math.log(1 - probability)
        losses.append(total / logits[phrase].numel())
    return losses


def slow_dice(logits: Tensor, targets: Tensor) -> list[float]:
    losses = []
    for phrase in range(len(logits)):
        overlap = predicted = true = 0.0
        for x, t in zip(
            logits[phrase].flatten().tolist(), targets[phrase].flatten().tolist(), strict=True
        ):
            probability = 1 / (1 + math.exp(-x))
            overlap, predicted, true = overlap + probability * t, predicted + probability, true + t
        losses.append(1 - (2 * overlap + 1) / (predicted + true + 1))
    return losses


def test_cross_entropy_equals_a_plain_python_loop(logits: Tensor, targets: Tensor) -> None:
    losses = binary_cross_entropy_loss(logits, targets, "none")
    assert losses.tolist() == pytest.approx(slow_cross_entropy(logits, targets), rel=1e-5)


def test_dice_equals_a_plain_python_loop(logits: Tensor, targets: Tensor) -> None:
    losses = dice_loss(logits, targets, "none")
    assert losses.tolist() == pytest.approx(slow_dice(logits, targets), rel=1e-5)


def test_mask_loss_is_the_sum_of_both_and_reduces_over_phrases(
    logits: Tensor, targets: Tensor
) -> None:
    expected = [
        a + b
        for a, b in zip(
            slow_cross_entropy(logits, targets), slow_dice(logits, targets), strict=True
        )
    ]
    assert mask_loss(logits, targets, "none").tolist() == pytest.approx(expected, rel=1e-5)
    assert mask_loss(logits, targets).item() == pytest.approx(sum(expected) / 4, rel=1e-5)
    assert mask_loss(logits, targets, "sum").item() == pytest.approx(sum(expected), rel=1e-5)


def test_right_mask_has_zero_loss_and_wrong_mask_a_large_one() -> None:
    truth = torch.zeros(1, 8, 8)
    truth[:, 2:5, 3:6] = 1
    right = 100 * (truth - 0.5)
    assert mask_loss(right, truth).item() == pytest.approx(0, abs=1e-6)
    assert mask_loss(-right, truth).item() > 10


def test_empty_prediction_of_an_empty_mask_has_zero_dice_loss() -> None:
    empty = torch.zeros(1, 8, 8)
    assert dice_loss(empty - 100, empty).item() == pytest.approx(0, abs=1e-6)


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits = torch.zeros(1, 200, 200, dtype=torch.bfloat16)
    targets = torch.full((1, 200, 200), 0.5)
    expected = mask_loss(logits.float(), targets)
    torch.testing.assert_close(mask_loss(logits, targets), expected)


def test_extreme_logits_have_finite_gradients() -> None:
    logits = torch.tensor([[[1e4, -1e4]]], requires_grad=True)
    torch.autograd.backward(mask_loss(logits, torch.tensor([[[0.0, 1.0]]])))
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
