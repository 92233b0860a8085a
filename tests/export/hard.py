"""Models whose BN statistics are as bad as they come, and still make a network that computes something."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from export.verify_fuse import random_faces
from runtime.spec import ModelSpec
from train.models.zoo import build


def hard_model(spec: ModelSpec, seed: int = 0) -> nn.Module:
    """A multi-branch model with negative and zero gammas, variances from 1e-6 to 1e6, means of 100 deviations.

    Each channel is rescaled and shifted so that its output stays what it was: the numbers are extreme, the function
    is not, and float32 has to live with the cancellation.
    """
    torch.manual_seed(seed)
    model = build(spec).train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        norm.momentum = 1.0
    with torch.no_grad():
        model(torch.from_numpy(random_faces(spec, 8, seed)))
        for convolution, norm in pairs(model):
            factor = 10 ** torch.empty(len(norm.weight)).uniform_(-3, 3)
            convolution.weight *= factor.view(-1, 1, 1, 1)
            norm.running_mean *= factor
            norm.running_var *= factor**2
        for norm in norms:
            norm.momentum = 0.1
            spoil(norm)
    return model.eval()


def spoil(norm: nn.BatchNorm2d) -> None:
    """A zero gamma, and means far from zero that beta takes back."""
    assert norm.running_mean is not None and norm.running_var is not None
    norm.weight[0] = 0
    deviation = norm.running_var.sqrt()
    away = 100 * deviation * torch.randn_like(deviation)
    norm.running_mean += away
    norm.bias += norm.weight * away / torch.sqrt(norm.running_var + norm.eps)


def pairs(model: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Every convolution with the BN right behind it."""
    found = []
    for module in model.modules():
        layers = list(module.children()) if isinstance(module, nn.Sequential) else []
        for first, second in pairwise(layers):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                found.append((first, second))
    return found
