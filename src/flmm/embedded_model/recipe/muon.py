"""The Muon optimizer, for two cores or a GPU; in bfloat16 only where the hardware has it.

torch's Muon always orthogonalises in bfloat16; on CPUs that emulate it, one step took longer than
the gradient of the whole batch (33 times float32's time).
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flmm.embedded_model.recipe.hardware import FAST_BFLOAT16, ON_GPU

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_THREAD_POOL = ThreadPoolExecutor(2)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return about the nearest matrices with all singular values 1 (Newton-Schulz), (n, a, b)."""
    wide = matrices.shape[1] <= matrices.shape[2]
    result = matrices if wide else matrices.mT
    result = result / result.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    if FAST_BFLOAT16:
        result = result.bfloat16()
    first, second, third = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = result @ result.mT
        update = torch.baddbmm(gram, gram, gram, beta=second, alpha=third)
        result = torch.baddbmm(result, update, result, beta=first)
    return (result if wide else result.mT).to(matrices.dtype)


def _group_parameters(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Return the parameters with a gradient, in groups that are updated together.

    On a GPU, where kernel launches dominate, all of one shape are a group; on CPUs, each alone.
    """
    groups: dict[object, list[nn.Parameter]] = {}
    for index, parameter in enumerate(parameters):
        if parameter.grad is not None:
            groups.setdefault(parameter.shape if ON_GPU else index, []).append(parameter)
    return list(groups.values())


class Muon(Optimizer):
    """Momentum with orthogonalised updates, scaled to AdamW's usual size.

    For matrices inside the network; embeddings, norms and biases need AdamW.
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
        """Update the parameters; return the closure's loss, if there is one."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            parameters = cast(list[nn.Parameter], group["params"])
            list(_THREAD_POOL.map(partial(self._update, group), _group_parameters(parameters)))
        return loss

    @torch.no_grad()
    def _update(self, group: dict[str, Any], parameters: list[nn.Parameter]) -> None:
        nesterov_updates = []
        for parameter in parameters:
            assert parameter.grad is not None
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            average = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
            nesterov_updates.append(parameter.grad.lerp(average, group["momentum"]))
        # Updates with a root mean square of 0.2 need the same learning rates as AdamW.
        scale = 0.2 * max(parameters[0].shape) ** 0.5
        for parameter, update in zip(
            parameters, orthogonalise(torch.stack(nesterov_updates)), strict=True
        ):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update, alpha=-group["lr"] * scale)
