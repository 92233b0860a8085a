"""How far rounding alone can move a block's output: running error bounds, element by element.

A sum of n products in floating point with unit roundoff u is off by at most gamma_n * sum |w||x|, gamma_n = nu/(1-nu),
in whatever order it is added. The limits below apply this to both sides of a comparison; nothing in them is tuned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.fuse import Branch
from train.models.mobileone import MobileOneBlock

_NORM_STEPS = 8
"""Roundings of a BN per value: four in gamma / sqrt(var + eps), two in beta - mean * scale, product and sum."""
_BOUND_SLACK = 1.001
"""The bounds themselves are computed in float32."""


@dataclass(frozen=True)
class Geometry:
    """How a convolution moves over its input."""

    stride: int
    padding: int
    groups: int


def geometry(block: nn.Module) -> Geometry:
    """Of a fusable block."""
    if isinstance(block, MobileOneBlock):
        return Geometry(block.stride, block.kernel // 2, block.groups)
    conv = block.get_submodule("0")
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(f"no convolution in {type(block).__name__}")
    return Geometry(int(conv.stride[0]), int(conv.padding[0]), conv.groups)


def unit_roundoff(dtype: torch.dtype) -> float:
    """Largest relative error of one rounding."""
    return torch.finfo(dtype).eps / 2


def gamma(steps: int, unit: float) -> float:
    """Largest relative error of `steps` roundings in a row.

    >>> gamma(2, 0.25)
    1.0
    """
    return steps * unit / (1 - steps * unit)


@dataclass(frozen=True)
class RoundingLimit:
    """For each output value, how far the multi-branch sum and the fused convolution may lie apart."""

    shape: Geometry
    depth: int
    branches: int
    apart: tuple[Tensor, Tensor]
    """Kernel and constant that turn |x| into the size of what the branches add up."""
    together: tuple[Tensor, Tensor]
    """The same of the fused convolution."""

    @staticmethod
    def of(branches: Sequence[Branch], fused: tuple[Tensor, Tensor], shape: Geometry) -> RoundingLimit:
        """Of a block's branches, and of their folded kernel and bias."""
        scales = [branch.scale().abs() for branch in branches]
        kernel = torch.zeros_like(fused[0])
        constant = torch.zeros_like(fused[1])
        for branch, scale in zip(branches, scales, strict=True):
            kernel += branch.kernel.double().abs() * scale.view(-1, 1, 1, 1)
            constant += scale * branch.mean().abs() + branch.shift().abs()
        together = (fused[0].abs().float(), fused[1].abs().float())
        return RoundingLimit(shape, fused[0][0].numel(), len(branches), (kernel.float(), constant.float()), together)

    def __call__(self, x: Tensor) -> Tensor:
        """The limit for inputs x, in x's precision, one rounding of the fused weights counted in."""
        unit, size, shape = unit_roundoff(x.dtype), x.abs().float(), self.shape
        kernel, constant = (
            a * gamma(self.depth + _NORM_STEPS + self.branches, unit) + b * (gamma(self.depth + 1, unit) + unit)
            for a, b in zip(self.apart, self.together, strict=True)
        )
        limit = F.conv2d(size, kernel, constant, shape.stride, shape.padding, 1, shape.groups)
        return limit.double() * _BOUND_SLACK


@dataclass(frozen=True)
class Gap:
    """How far two tensors lie apart, and where they do so most, measured against a limit per value."""

    max_abs: float
    max_rel: float
    """The largest difference over the largest value."""
    ulp: float
    """The largest difference in units of the last place, of values not smaller than 1/32 of the largest one."""
    share: float
    """The largest difference over its own limit: above 1 it is more than rounding."""
    probe: int
    channel: int
    limit: float
    """The limit at the worst place."""


def gap(found: Tensor, wanted: Tensor, limit: Tensor) -> Gap:
    """Compare outputs (N, C, H, W) of one precision."""
    difference = (found - wanted).double().abs()
    share = torch.nan_to_num(difference / limit.clamp_min(torch.finfo(torch.float64).tiny), nan=torch.inf)
    worst = int(share.argmax())
    probe, channel = worst // share[0].numel(), worst % share[0].numel() // share[0, 0].numel()
    largest = float(wanted.double().abs().max())
    place = wanted.abs().clamp_min(largest / 32).double()
    spacing = torch.exp2(torch.floor(torch.log2(place.clamp_min(torch.finfo(torch.float64).tiny))))
    ulp = difference / (spacing * torch.finfo(wanted.dtype).eps)
    return Gap(
        max_abs=_largest(difference),
        max_rel=_largest(difference) / max(largest, torch.finfo(torch.float64).tiny),
        ulp=_largest(ulp),
        share=float(share.flatten()[worst]),
        probe=probe,
        channel=channel,
        limit=float(limit.flatten()[worst]),
    )


def _largest(values: Tensor) -> float:
    return float(torch.nan_to_num(values, nan=torch.inf).max())
