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


def rounding_limit(branches: Sequence[Branch], fused: tuple[Tensor, Tensor], x: Tensor, shape: Geometry) -> Tensor:
    """For each output value, how far the multi-branch sum and the fused convolution may lie apart, in x's precision.

    `fused` is the fused kernel and bias; one rounding of these themselves, from float64, is counted in.
    """
    unit = unit_roundoff(x.dtype)
    depth = branches[0].kernel[0].numel()
    size = x.abs().float()

    # Multi-branch: |scale| * (sum |w||x| + |mean|) + |beta|, summed over the branches.
    scales = [branch.scale().abs() for branch in branches]
    kernel = sum(b.kernel.double().abs() * s.view(-1, 1, 1, 1) for b, s in zip(branches, scales, strict=True))
    means = [torch.zeros(1) if b.norm.running_mean is None else b.norm.running_mean.double().abs() for b in branches]
    constant = sum(s * m + b.shift().abs() for b, s, m in zip(branches, scales, means, strict=True))
    apart = _conv(size, kernel, constant, shape) * gamma(depth + _NORM_STEPS + len(branches), unit)

    # Fused: sum |w||x| + |bias|, with one more rounding for the stored weights.
    together = _conv(size, fused[0].abs(), fused[1].abs(), shape) * (gamma(depth + 1, unit) + unit)
    return (apart + together) * _BOUND_SLACK


def _conv(x: Tensor, kernel: object, bias: object, shape: Geometry) -> Tensor:
    weight, constant = torch.as_tensor(kernel), torch.as_tensor(bias)
    return F.conv2d(x, weight.float(), constant.float(), shape.stride, shape.padding, 1, shape.groups).double()


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


def worse(first: Gap, second: Gap) -> Gap:
    """The one that comes nearer to its limit, with the largest of each measure."""
    lead, other = (first, second) if first.share >= second.share else (second, first)
    return Gap(
        max(lead.max_abs, other.max_abs),
        max(lead.max_rel, other.max_rel),
        max(lead.ulp, other.ulp),
        lead.share,
        lead.probe,
        lead.channel,
        lead.limit,
    )
