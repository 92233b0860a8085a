"""Heatmaps as targets: a Gaussian per point, and the Adaptive Wing loss of every cell."""

from __future__ import annotations

import torch
from torch import Tensor


def adaptive_wing(
    value: Tensor, truth: Tensor, omega: float = 14.0, theta: float = 0.5, eps: float = 1.0, alpha: float = 2.1
) -> Tensor:
    """Of each cell: omega ln(1 + |d / eps|^(alpha - truth)) while |d| < theta, a straight line beyond.

    Line and curve meet at theta with one value and one slope. Where the truth is near 1 the curve is steep at small
    errors like Wing; in the background it is nearly quadratic, so that empty cells do not dominate.
    """
    size, power = (value - truth).abs(), alpha - truth
    knee = torch.pow(theta / eps, power)
    slope = omega * power * torch.pow(theta / eps, power - 1) / (eps * (1 + knee))
    offset = theta * slope - omega * torch.log1p(knee)
    is_near = size < theta
    # Zero to a power has an endless slope in the power; a cell without error gets the value 0 and no slope.
    base = torch.where(is_near & (size > 0), size / eps, 1.0)
    near = omega * torch.log1p(torch.pow(base, power))
    near = torch.where(size > 0, near, 0.0)
    return torch.where(is_near, near, slope * size - offset)


def gaussians(centres: Tensor, side: int, sigma: float) -> Tensor:
    """Maps (B, N, S, S) with a peak of 1 at centres (B, N, 2) in cells; cell centres are whole numbers."""
    cells = torch.arange(side, device=centres.device, dtype=centres.dtype)
    across = torch.exp(-(cells - centres[..., None]).square() / (2 * sigma * sigma))
    return across[..., 1, :, None] * across[..., 0, None, :]
