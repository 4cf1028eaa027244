"""Muon, on two cores, and in bfloat16 only where the processor has it.

torch's own Muon always orthogonalises in bfloat16, which other processors emulate: on such a
machine one step took longer than the gradient of the whole batch (33 times float32's time).
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flmm.stickers.recipe.attention import FAST_HALF

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_CORES = ThreadPoolExecutor(2)


def orthogonalised(matrix: Tensor) -> Tensor:
    """(a, b) → about the nearest matrix with all singular values 1 (Newton-Schulz iterations)."""
    wide = matrix.shape[0] <= matrix.shape[1]
    result = matrix if wide else matrix.T
    result = result / result.norm().clamp(min=1e-7)
    if FAST_HALF:
        result = result.bfloat16()
    first, second, third = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = result @ result.T
        update = torch.addmm(gram, gram, gram, beta=second, alpha=third)
        result = torch.addmm(result, update, result, beta=first)
    return (result if wide else result.T).to(matrix.dtype)


class Muon(Optimizer):
    """Momentum whose update is orthogonalised and scaled to AdamW's usual size.

    For matrices inside the network; embeddings, norms and biases want AdamW.
    """

    def __init__(
        self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None if closure is None else closure()
        for group in self.param_groups:
            parameters = cast(list[nn.Parameter], group["params"])
            list(_CORES.map(partial(self._update, group), parameters))
        return loss

    @torch.no_grad()
    def _update(self, group: dict[str, Any], parameter: nn.Parameter) -> None:
        if parameter.grad is None:
            return
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        look_ahead = parameter.grad.lerp(average, group["momentum"])
        # An update of root mean square 0.2 lets AdamW's learning rates be used as they are.
        scale = 0.2 * max(parameter.shape) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(orthogonalised(look_ahead), alpha=-group["lr"] * scale)
