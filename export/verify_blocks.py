"""One block of the multi-branch network against its fused convolution: weights, structure, outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.fuse import Branch, branches_of, summed
from export.verify_bounds import Gap, Geometry, RoundingLimit, gap, geometry, unit_roundoff
from export.verify_diagnose import diagnose
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
    corner = shape.stride - shape.padding
    # One image per tap and input channel of a group; all groups at once, for they do not meet. The last stays zero.
    images = torch.zeros(kernel * kernel * per_group + 1, inputs, side, side, dtype=like.dtype)
    for tap in range(kernel * kernel):
        row, column = divmod(tap, kernel)
        for channel in range(per_group):
            images[channel * kernel * kernel + tap, channel::per_group, corner + row, corner + column] = 1
    response = linear_part(block, images)[:, :, 1, 1]
    return (response[:-1] - response[-1]).T.reshape(like.shape), response[-1]


def compare_weights(exact: nn.Module, fused: nn.Module, branches: Sequence[Branch]) -> Weights:
    """Stored float32 weights against the impulse response of the block in float64."""
    conv = fused_conv(fused)
    if conv is None or conv.bias is None:
        raise TypeError("fused block without convolution and bias")
    kernel, bias = impulse_response(exact, geometry(exact), branches[0].kernel)
    folded = [value for branch in branches for value in branch.folded()]
    size = sum(float(value.abs().max()) for value in folded)
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
        diagnosis = diagnose(branches, kernel, bias, conv.weight.double(), conv.bias.double())
    return Weights(float(ulp.max()), worst, diagnosis)


def _spacing(values: Tensor) -> Tensor:
    return torch.from_numpy(np.spacing(np.abs(values.detach().numpy())).astype(np.float64))


def prove_block(
    name: str, block: nn.Module, exact: nn.Module, fused: nn.Module, x: Tensor, generator: torch.Generator
) -> BlockProof:
    """Everything about one block, on its own inputs `x` (float32) and on random ones; `exact` is it in float64."""
    branches = branches_of(exact)
    kind = type(block).__name__ if isinstance(block, MobileOneBlock) else "convolution + BN"
    outline = BlockProof(name, kind, len(branches), branches[0].kernel[0].numel(), wrong_structure(block, fused))
    if outline.structure:
        return outline
    folded = summed(branches)
    limit = RoundingLimit.of(branches, folded, geometry(block))
    noise = torch.randn(x.shape[1:], generator=generator)[None] * x.std() * 3 + x.mean()
    return replace(
        outline,
        weights=compare_weights(exact, fused, branches),
        exact=_exact_gap(exact, folded, limit, torch.cat([x[:EXACT_PROBES], noise]).double()),
        faces=_rounded_gap(block, fused, limit, x),
        noise=_rounded_gap(block, fused, limit, noise),
    )


def _exact_gap(exact: nn.Module, folded: tuple[Tensor, Tensor], limit: RoundingLimit, x: Tensor) -> Gap:
    """The algebra: branches against their sum, everything in float64."""
    shape = limit.shape
    found = F.conv2d(x, *folded, shape.stride, shape.padding, 1, shape.groups)
    return gap(found, linear_part(exact, x), limit(x))


def _rounded_gap(block: nn.Module, fused: nn.Module, limit: RoundingLimit, x: Tensor) -> Gap:
    """What ships, as it runs: both sides in float32, activation and all."""
    wanted = linear_part(block, x)
    return gap(fused(x), wanted.relu() if _rectifies(block) else wanted, limit(x))
