"""MobileOne block: several linear branches that are summed in training and become one convolution afterwards."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from train.models.folded import Branches, collect, fold_batch, fold_running
from train.models.moments import patch_moments
from train.models.norm import BatchNorm, update_running

MAX_CONDITION = 1e4

BranchForm = Literal["auto", "loop", "folded"]
"""How the branches are computed: one after the other, as one wide convolution, or folded into a single one."""

_form: ContextVar[BranchForm] = ContextVar("branch_form", default="auto")


@contextmanager
def branch_form(form: BranchForm) -> Iterator[None]:
    """Compute all MobileOne blocks in the given form; "loop" is the reference that the others are measured against."""
    token = _form.set(form)
    try:
        yield
    finally:
        _form.reset(token)


def _branch(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=BatchNorm(outputs)))


class MobileOneBlock(nn.Module):
    """k convolution branches, a 1x1 scale branch when the kernel is larger, a BN skip where shapes allow; summed."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
        branches: int = 6,
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.groups = kernel, stride, groups
        self.rbr_skip = BatchNorm(inputs) if inputs == outputs and stride == 1 else None
        self.rbr_conv = nn.ModuleList(_branch(inputs, outputs, kernel, stride, groups) for _ in range(branches))
        # On every stride-th pixel, with stride 1: a strided 1x1 convolution of 3 channels in channels_last form makes
        # oneDNN write outside its memory in the backward pass.
        self.rbr_scale = _branch(inputs, outputs, 1, 1, groups) if kernel > 1 else None
        self.activation: nn.Module = nn.Identity() if linear else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.branch_sum(x))
        return y

    def branch_sum(self, x: Tensor) -> Tensor:
        """The sum of all branches, before the activation."""
        if self._can_fold(x):
            y = self._folded(x)
            if y is not None:
                return y
        return self._loop(x)

    def _loop(self, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in self.rbr_conv]
        if self.rbr_scale is not None:
            parts.append(self.rbr_scale(x[..., :: self.stride, :: self.stride] if self.stride > 1 else x))
        if self.rbr_skip is not None:
            parts.append(self.rbr_skip(x))
        total: Tensor = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def _can_fold(self, x: Tensor) -> bool:
        form = _form.get()
        if form == "loop" or (form == "auto" and x.device.type != "cpu"):
            return False
        return self.groups == 1 or self.groups == x.shape[1] == self.rbr_conv[0].conv.out_channels

    def _folded(self, x: Tensor) -> Tensor | None:
        branches = self._branches()
        if not self.training:
            kernel, bias = fold_running(branches)
        else:
            mean, covariance, count = patch_moments(x, self.kernel, self.stride, self.groups)
            fold = fold_batch(branches, mean, covariance)
            if fold.condition > MAX_CONDITION:
                return None
            update_running(branches.norms, fold.mean, fold.variance, count)
            kernel, bias = fold.kernel, fold.bias
        return F.conv2d(x, kernel, bias, self.stride, self.kernel // 2, 1, self.groups)

    def _branches(self) -> Branches:
        conv = [(branch.conv.weight, branch.bn) for branch in self.rbr_conv]
        scale = None if self.rbr_scale is None else (self.rbr_scale.conv.weight, self.rbr_scale.bn)
        return collect(conv, scale, self.rbr_skip, self.groups)


class FusedBlock(nn.Module):
    """What a MobileOne block becomes: one convolution with bias, and the activation."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.reparam_conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
        self.activation: nn.Module = nn.Identity() if linear else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.reparam_conv(x))
        return y
