"""Muon: dense convolutions move along the orthogonalised momentum of their gradients, all other weights as in AdamW.

A step of plain momentum is dominated by a few directions of a weight matrix. Its nearest orthogonal matrix moves all of
them alike, which on these small networks is worth about twice the epochs. The size of a step is scaled to that of
AdamW's, so that one learning rate serves both kinds of weights (K. Jordan and others 2024; J. Liu and others 2025).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

BETAS = (0.9, 0.999)
EPSILON = 1e-8
SWEEP = (3.4445, -4.7750, 2.0315)
"""Coefficients of one sweep: singular values from 0 to 1 are near 1 after five."""
SWEEPS = 5
RMS = 0.2
"""Root mean square of an AdamW step divided by the learning rate, roughly."""


def orthogonal(matrices: Tensor) -> Tensor:
    """About the nearest orthogonal matrix of each of (N, rows, columns): singular values between 0.7 and 1.2."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = SWEEP
    for _ in range(SWEEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    turned: Tensor = x.mT if tall else x
    return turned


def dense_kernels(modules: nn.Module) -> list[Tensor]:
    """Kernels that mix all channels: what Muon moves. Depthwise kernels and linear heads are not among them."""
    kernels = [module.weight for module in modules.modules() if isinstance(module, nn.Conv2d) and module.groups == 1]
    return [kernel for kernel in kernels if min(kernel.shape[0], kernel[0].numel()) > 1]


class Muon(torch.optim.Optimizer):
    """Groups with `orthogonal` set take Muon's step, the others AdamW's."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every weight that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [weight for weight in group["params"] if weight.grad is not None]
            if moved:
                (self._turn if group["orthogonal"] else self._adamw)(group, moved)
        return loss

    def _turn(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        rate, momentum = group["lr"], group["momentum"]
        for weight in weights:
            if not self.state[weight]:
                self.state[weight] = {"momentum": torch.zeros_like(weight)}
        means = [self.state[weight]["momentum"] for weight in weights]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        # By group, not one by one: these kernels are small, and there are dozens of them.
        torch._foreach_mul_(means, momentum)
        torch._foreach_add_(means, gradients)
        ahead = torch._foreach_add(gradients, means, alpha=momentum)
        alike: dict[tuple[int, int], list[int]] = {}
        for place, weight in enumerate(weights):
            alike.setdefault((len(weight), weight[0].numel()), []).append(place)
        steps = list(means)
        for shape, places in alike.items():
            turned = orthogonal(torch.stack([ahead[place].reshape(shape) for place in places]).float())
            turned.mul_(-rate * RMS * math.sqrt(max(shape)))
            for place, step in zip(places, turned.unbind(), strict=True):
                steps[place] = step.view(weights[place].shape)
        torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
        torch._foreach_add_(weights, steps)

    def _adamw(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight] = {
                    "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                    "exp_avg": torch.zeros_like(weight),
                    "exp_avg_sq": torch.zeros_like(weight),
                }
        states = [self.state[weight] for weight in weights]
        adamw(
            weights, [weight.grad for weight in weights if weight.grad is not None],
            [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states], [],
            [state["step"] for state in states], fused=True, amsgrad=False, beta1=BETAS[0], beta2=BETAS[1],
            lr=group["lr"], weight_decay=group["weight_decay"], eps=EPSILON, maximize=False,
        )  # fmt: skip
