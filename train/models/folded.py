"""All branches of a MobileOne block as one convolution, also in training, where BN depends on the batch.

The batch statistics of every branch follow from the moments of the block's input patches; with them, each branch is a
linear map of the patch, and their sum is a single kernel and bias. Gradients flow through kernel and statistics alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Branches:
    """Kernels (R, O, I/G, k, k) and norms of all branches of one block; the skip is an identity kernel."""

    kernels: Tensor
    norms: Sequence[nn.BatchNorm2d]
    groups: int

    @property
    def gamma(self) -> Tensor:
        return torch.stack([norm.weight for norm in self.norms])

    @property
    def beta(self) -> Tensor:
        return torch.stack([norm.bias for norm in self.norms])

    @property
    def eps(self) -> float:
        return self.norms[0].eps


def collect(
    conv: Sequence[tuple[Tensor, nn.BatchNorm2d]],
    scale: tuple[Tensor, nn.BatchNorm2d] | None,
    skip: nn.BatchNorm2d | None,
    groups: int,
) -> Branches:
    """Put the branches of a block in a row: convolutions, scale, skip."""
    kernels = [weight for weight, _ in conv]
    norms = [norm for _, norm in conv]
    reach = kernels[0].shape[-1] // 2
    if scale is not None:
        kernels.append(F.pad(scale[0], (reach,) * 4))
        norms.append(scale[1])
    if skip is not None:
        kernels.append(identity_kernel(kernels[0]))
        norms.append(skip)
    return Branches(torch.stack(kernels), norms, groups)


def identity_kernel(like: Tensor) -> Tensor:
    """The kernel (O, I/G, k, k) that gives its input back."""
    outputs, per_group, kernel, _ = like.shape
    result = torch.zeros_like(like, requires_grad=False)
    index = torch.arange(outputs, device=like.device)
    result[index, index % per_group, kernel // 2, kernel // 2] = 1
    return result


def fold_running(branches: Branches) -> tuple[Tensor, Tensor]:
    """Kernel and bias of the sum, with the running statistics."""
    mean = torch.stack([norm.running_mean for norm in branches.norms if norm.running_mean is not None])
    variance = torch.stack([norm.running_var for norm in branches.norms if norm.running_var is not None])
    scale = branches.gamma * torch.rsqrt(variance + branches.eps)
    kernel = (branches.kernels * scale[:, :, None, None, None]).sum(0)
    return kernel, (branches.beta - scale * mean).sum(0)


@dataclass(frozen=True)
class BatchFold:
    """Kernel and bias of the sum with batch statistics, and these statistics (R, O)."""

    kernel: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor
    condition: float
    """The worst branch's |w|^2 tr(S) over its variance: how much the rounding of S is magnified in it."""


def fold_batch(branches: Branches, mean: Tensor, covariance: Tensor) -> BatchFold:
    """Fold with the statistics that follow from the patches' mean (G, D) and covariance (G, D, D)."""
    kernels = branches.kernels
    count, outputs, groups = len(kernels), kernels.shape[1], branches.groups
    rows = kernels.reshape(count, groups, outputs // groups, -1).transpose(0, 1).reshape(groups, -1, mean.shape[1])
    result = _Fold.apply(  # type: ignore[no-untyped-call]
        rows, _by_group(branches.gamma, groups), _by_group(branches.beta, groups), mean, covariance, branches.eps, count
    )
    kernel, bias, batch_mean, variance = result
    with torch.no_grad():
        size = rows.detach().square().sum(-1) * covariance.diagonal(dim1=1, dim2=2).sum(-1, keepdim=True)
        condition = float((size / (variance + branches.eps)).max())
    return BatchFold(
        kernel.view(kernels.shape[1:]),
        bias.flatten(),
        _by_branch(batch_mean, count),
        _by_branch(variance, count),
        condition,
    )


def _by_group(values: Tensor, groups: int) -> Tensor:
    """(R, O) -> (G, R * O/G), as the rows are ordered."""
    return values.view(len(values), groups, -1).transpose(0, 1).reshape(groups, -1)


def _by_branch(values: Tensor, count: int) -> Tensor:
    """The inverse of `_by_group`."""
    return values.view(len(values), count, -1).transpose(0, 1).reshape(count, -1)


class _Fold(torch.autograd.Function):
    """rows (G, R*Og, D), gamma and beta (G, R*Og), mean, covariance -> kernel (G, Og, D), bias (G, Og), batch stats."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        gamma: Tensor,
        beta: Tensor,
        mean: Tensor,
        covariance: Tensor,
        eps: float,
        count: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        spread = torch.bmm(rows, covariance)
        batch_mean = torch.bmm(rows, mean[:, :, None]).squeeze(2)
        variance = (spread * rows).sum(2).clamp_min_(0)
        inverse = torch.rsqrt(variance + eps)
        scale = gamma * inverse
        groups, total, depth = rows.shape
        kernel = (rows * scale[:, :, None]).view(groups, count, total // count, depth).sum(1)
        bias = (beta - scale * batch_mean).view(groups, count, total // count).sum(1)
        ctx.save_for_backward(rows, gamma, mean, spread, batch_mean, inverse)
        ctx.count = count
        ctx.mark_non_differentiable(batch_mean, variance)
        return kernel, bias, batch_mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, gamma, mean, spread, batch_mean, inverse = ctx.saved_tensors
        of_kernel = gradients[0].repeat(1, ctx.count, 1)
        of_bias = gradients[1].repeat(1, ctx.count)
        scale = gamma * inverse
        of_scale = (of_kernel * rows).sum(2) - of_bias * batch_mean
        of_mean = -of_bias * scale
        of_variance = of_scale * gamma * inverse.pow(3) * -0.5
        of_rows = of_kernel * scale[:, :, None]
        of_rows.addcmul_(spread, 2 * of_variance[:, :, None]).addcmul_(of_mean[:, :, None], mean[:, None, :])
        of_covariance = torch.bmm((rows * of_variance[:, :, None]).transpose(1, 2), rows)
        of_patch_mean = torch.bmm(of_mean[:, None, :], rows).squeeze(1)
        return of_rows, of_scale * inverse, of_bias, of_patch_mean, of_covariance, None, None
