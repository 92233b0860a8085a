"""One block of the multi-branch network against its fused convolution: weights, structure, outputs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.fuse import Branch, branches_of, summed
from export.verify_bounds import Gap, Geometry, gap, geometry, rounding_limit, unit_roundoff, worse
from train.models.mobileone import FusedBlock, MobileOneBlock, branch_form

EXACT_PROBES = 2
"""Faces per block in float64: each is thousands of values, and float64 convolutions are slow."""
WEIGHT_LIMIT = 0.5
"""ULPs: a stored weight is the float64 sum, rounded once."""
_WEIGHT_SLACK = 1e-6
"""ULPs that the float64 sum itself may be off by, after thousands of additions."""


@dataclass(frozen=True)
class Weights:
    """Fused weights against the block's impulse response, in ULPs of the weights."""

    ulp: float
    channel: int
    diagnosis: str

    @property
    def passed(self) -> bool:
        return self.ulp <= WEIGHT_LIMIT + _WEIGHT_SLACK


@dataclass(frozen=True)
class BlockProof:
    """What was measured on one block."""

    name: str
    kind: str
    branches: int
    depth: int
    """Length of the reduction: products per output value."""
    structure: str
    """What is wrong with the fused block's form; empty when nothing is."""
    weights: Weights | None = None
    exact: Gap | None = None
    faces: Gap | None = None
    noise: Gap | None = None

    def problem(self) -> tuple[str, str] | None:
        """The first check that failed, and what it says."""
        if self.structure:
            return "structure", self.structure
        if self.weights is not None and not self.weights.passed:
            where = f"channel {self.weights.channel}: {self.weights.ulp:.3g} ULP, limit {WEIGHT_LIMIT}"
            return "weights", f"{where}; {self.weights.diagnosis}"
        for check, found in (("float64", self.exact), ("float32 faces", self.faces), ("float32 random", self.noise)):
            if found is not None and not found.share <= 1:
                where = f"probe {found.probe}, channel {found.channel}"
                return check, f"{found.share:.3g} times its limit {found.limit:.3g} ({where})"
        return None


def linear_part(block: nn.Module, x: Tensor) -> Tensor:
    """A block's output before its activation, branch by branch."""
    if isinstance(block, MobileOneBlock):
        with branch_form("loop"):
            return block.branch_sum(x)
    for layer in block.children():
        if not isinstance(layer, nn.ReLU):
            x = layer(x)
    return x


def fused_conv(block: nn.Module) -> nn.Conv2d | None:
    """The convolution of a fused block; None where it is not the plain form."""
    conv = block.reparam_conv if isinstance(block, FusedBlock) else next(block.children(), None)
    return conv if isinstance(conv, nn.Conv2d) else None


def _rectifies(block: nn.Module) -> bool:
    return any(isinstance(module, nn.ReLU) for module in block.modules())


def wrong_structure(block: nn.Module, fused: nn.Module) -> str:
    """What a fused block has, or lacks, that its multi-branch original does not; empty when it fits."""
    if any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d, MobileOneBlock)) for m in fused.modules()):
        return "a BN or a training branch is left over"
    conv = fused_conv(fused)
    if conv is None or conv.bias is None:
        return "not a convolution with bias"
    shape = geometry(block)
    found = (conv.stride, conv.padding, conv.groups, conv.dilation, conv.padding_mode)
    wanted = ((shape.stride,) * 2, (shape.padding,) * 2, shape.groups, (1, 1), "zeros")
    if found != wanted or conv.weight.shape != branches_of(block)[0].kernel.shape:
        return f"geometry {found} {tuple(conv.weight.shape)}, expected {wanted}"
    if _rectifies(block) != _rectifies(fused):
        return "the activation is lost" if _rectifies(block) else "an activation is added"
    names = {name for name, _ in conv.named_parameters()}
    if {name for name, _ in fused.named_parameters()} != {f"{_prefix(fused)}{n}" for n in names} or [*fused.buffers()]:
        return "parameters or buffers are left over"
    if not all(parameter.requires_grad for parameter in fused.parameters()):
        return "its parameters cannot be trained"
    return ""


def _prefix(fused: nn.Module) -> str:
    return "reparam_conv." if isinstance(fused, FusedBlock) else "0."


def impulse_response(block: nn.Module, shape: Geometry, like: Tensor) -> tuple[Tensor, Tensor]:
    """Kernel and bias of whatever linear map the block computes, found by feeding it zeros and single ones.

    This knows nothing of the formulas that fuse uses.
    """
    _, per_group, kernel, _ = like.shape
    inputs = per_group * shape.groups
    side = shape.stride + kernel + 1  # room for the output at (1, 1)
    zero = linear_part(block, torch.zeros(1, inputs, side, side, dtype=like.dtype))[0, :, 1, 1]
    corner = shape.stride - shape.padding
    response = torch.empty(like.shape, dtype=like.dtype)
    for row in range(kernel):
        for column in range(kernel):
            # One image per input channel of a group; all groups at once, for they do not meet.
            image = torch.zeros(per_group, inputs, side, side, dtype=like.dtype)
            for channel in range(per_group):
                image[channel, channel::per_group, corner + row, corner + column] = 1
            response[:, :, row, column] = (linear_part(block, image)[:, :, 1, 1] - zero).T
    return response, zero


def compare_weights(block: nn.Module, exact: nn.Module, fused: nn.Module) -> Weights:
    """Stored float32 weights against the impulse response of the block in float64."""
    conv, branches = fused_conv(fused), branches_of(exact)
    if conv is None or conv.bias is None:
        raise TypeError("fused block without convolution and bias")
    kernel, bias = impulse_response(exact, geometry(block), branches[0].kernel)
    size = sum(float(b.folded()[0].abs().max()) + float(b.folded()[1].abs().max()) for b in branches)
    found = torch.cat([conv.weight.flatten(1), conv.bias[:, None]], 1)
    wanted = torch.cat([kernel.flatten(1), bias[:, None]], 1)
    # Float64 noise of sums whose terms are as large as `size` counts for nothing.
    noise = size * (branches[0].kernel[0].numel() + 16 * len(branches)) * unit_roundoff(torch.float64)
    difference = (found.double() - wanted).abs().sub(noise).clamp_min(0)
    spacing = _spacing(wanted.to(found.dtype))
    ulp = torch.nan_to_num(difference / spacing, nan=torch.inf)
    worst = int(ulp.argmax()) // ulp.shape[1]
    diagnosis = ""
    if float(ulp.max()) > WEIGHT_LIMIT + _WEIGHT_SLACK:
        diagnosis = diagnose(branches, conv)
    return Weights(float(ulp.max()), worst, diagnosis)


def _spacing(values: Tensor) -> Tensor:
    return torch.from_numpy(np.spacing(np.abs(values.detach().numpy())).astype(np.float64))


def diagnose(branches: Sequence[Branch], conv: nn.Conv2d) -> str:
    """What is probably wrong with fused weights, by trying the usual mistakes."""
    kernel, bias = summed(branches)
    weight, offset = conv.weight.detach().double(), conv.bias.detach().double()  # type: ignore[union-attr]
    tolerance = 1e-5 * float(kernel.abs().max())

    def near(a: Tensor, b: Tensor) -> bool:
        return bool((a - b).abs().max() <= tolerance + 1e-5 * float(b.abs().max()))

    if not bool(torch.isfinite(weight).all() and torch.isfinite(offset).all()):
        return "the fused weights hold NaN or infinity"
    for branch in branches:
        if len(branches) > 1 and near(weight, kernel - branch.folded()[0]):
            return f"branch {branch.name} is missing"
    if near(weight, kernel):
        wrong = int(((offset - bias).abs() > tolerance + 1e-5 * float(bias.abs().max())).sum())
        return (
            "kernels agree, biases do not: running mean or beta is stale, or the sign is wrong"
            if wrong > len(bias) // 2
            else "a few values differ in their last digits or bits: not rounded once from float64, or changed later"
        )
    if kernel.shape[-1] > 1:
        middle = kernel.shape[-1] // 2
        elsewhere = torch.ones(kernel.shape[-2:], dtype=torch.bool)
        elsewhere[middle, middle] = False
        if near(weight[..., elsewhere], kernel[..., elsewhere]):
            return "only the kernel's centre differs: scale or skip branch missing, or not on the centre"
    ratio = (weight * kernel).flatten(1).sum(1) / kernel.flatten(1).square().sum(1).clamp_min(1e-300)
    if near(weight, kernel * ratio.view(-1, 1, 1, 1)):
        return "whole channels differ by a factor: gamma, variance or eps is wrong, stale, or of another branch"
    few = int(((weight - kernel).abs() > tolerance).sum())
    if few <= max(1, kernel.numel() // 100):
        return f"{few} single weights differ: the file was changed or damaged"
    return "wrong branch, stale BN statistics, or a model in train mode"


def prove_block(name: str, block: nn.Module, fused: nn.Module, x: Tensor, generator: torch.Generator) -> BlockProof:
    """Everything about one block, on its own inputs `x` (float32) and on random ones."""
    branches = branches_of(block)
    kind = type(block).__name__ if isinstance(block, MobileOneBlock) else "convolution + BN"
    outline = BlockProof(name, kind, len(branches), branches[0].kernel[0].numel(), wrong_structure(block, fused))
    if outline.structure:
        return outline
    exact = copy.deepcopy(block).double()
    noise = torch.randn(x.shape[1:], generator=generator)[None] * x.std() * 3 + x.mean()
    return BlockProof(
        outline.name,
        outline.kind,
        outline.branches,
        outline.depth,
        "",
        compare_weights(block, exact, fused),
        _exact_gap(exact, torch.cat([x[:EXACT_PROBES], noise]).double()),
        _rounded_gap(block, fused, x),
        _rounded_gap(block, fused, noise),
    )


def _exact_gap(exact: nn.Module, x: Tensor) -> Gap:
    """The algebra: branches against their sum, everything in float64."""
    shape, branches = geometry(exact), branches_of(exact)
    kernel, bias = summed(branches)
    found = F.conv2d(x, kernel, bias, shape.stride, shape.padding, 1, shape.groups)
    return gap(found, linear_part(exact, x), rounding_limit(branches, (kernel, bias), x, shape))


def _rounded_gap(block: nn.Module, fused: nn.Module, x: Tensor) -> Gap:
    """What ships, as it runs: both sides in float32, activation and all."""
    shape, branches = geometry(block), branches_of(block)
    limit = rounding_limit(branches, summed(branches), x, shape)
    wanted = linear_part(block, x)
    return gap(fused(x), wanted.relu() if _rectifies(block) else wanted, limit)


def merge(first: BlockProof, second: BlockProof) -> BlockProof:
    """Two passes over the same block, as one."""
    if first.faces is None or second.faces is None:
        return first
    return BlockProof(
        first.name,
        first.kind,
        first.branches,
        first.depth,
        first.structure,
        first.weights,
        first.exact,
        worse(first.faces, second.faces),
        first.noise,
    )
