"""Parameters and multiply-adds of a model, counted by watching it run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from train.models.mobileone import branch_form


@dataclass(frozen=True)
class Cost:
    """Learnable values, and multiply-adds of convolutions and linear layers for one image."""

    params: int
    macs: int


def count(model: nn.Module, input_size: int) -> Cost:
    """Count a model's cost; all branches of a multi-branch model are counted."""
    macs = 0

    def watch(module: Any, _: Any, output: Tensor) -> None:
        nonlocal macs
        macs += math.prod(module.weight.shape[1:]) * output[0].numel()

    hooks = [m.register_forward_hook(watch) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    parameter = next(model.parameters())
    image = torch.zeros(1, 3, input_size, input_size, dtype=parameter.dtype, device=parameter.device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), branch_form("loop"):
            model(image)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return Cost(sum(p.numel() for p in model.parameters()), macs)
