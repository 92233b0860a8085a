"""MobileOne block: several linear branches that are summed in training and become one convolution afterwards."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.models.folded import Branches, collect, fold_batch, fold_running
from train.models.joined import Joint, can_join, joined_block, norms_fit
from train.models.moments import patch_moments
from train.models.norm import BatchNorm, update_running

MAX_LOSS = 1e-3
"""A batch whose variances could be off by more than this fraction, by rounding of the moments, is not folded."""

BranchForm = Literal["auto", "loop", "folded", "joined"]
"""How branches are computed: one after the other, folded into one convolution, or in joint passes over memory.

"auto" on a CPU: a single branch is joined where the kernels compile, several are folded; elsewhere it is the loop."""

_form: ContextVar[BranchForm] = ContextVar("branch_form", default="auto")


@contextmanager
def branch_form(form: BranchForm) -> Iterator[None]:
    """Compute all MobileOne blocks in the given form; "loop" is the reference that the others are measured against."""
    token = _form.set(form)
    try:
        yield
    finally:
        _form.reset(token)


class Branch(nn.Sequential):
    """A convolution and its BN."""

    conv: nn.Conv2d
    bn: BatchNorm

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(OrderedDict(conv=conv, bn=BatchNorm(outputs)))


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
        self.kernel, self.stride, self.groups, self.outputs = kernel, stride, groups, outputs
        self.rbr_skip = BatchNorm(inputs) if inputs == outputs and stride == 1 else None
        self.rbr_conv = nn.ModuleList(Branch(inputs, outputs, kernel, stride, groups) for _ in range(branches))
        # On every stride-th pixel, with stride 1: a strided 1x1 convolution of 3 channels in channels_last form makes
        # oneDNN write outside its memory in the backward pass.
        self.rbr_scale = Branch(inputs, outputs, 1, 1, groups) if kernel > 1 else None
        self.activation: nn.Module = nn.Identity() if linear else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        joined = self._joined(x)
        if joined is not None:
            return joined
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

    def _joined(self, x: Tensor) -> Tensor | None:
        """The block's output in joint passes; None where the form, the shape or the machine is not for it."""
        if _form.get() not in ("auto", "joined") or not self.training or len(self.rbr_conv) != 1 or not can_join(x):
            return None
        conv, scale, relu = self.conv_branches[0], self.rbr_scale, isinstance(self.activation, nn.ReLU)
        if not norms_fit(self.norms()):
            return None
        depthwise = self.groups == x.shape[1] == self.outputs
        if depthwise and self.kernel == 3 and self.stride <= 2 and not any(n % self.stride for n in x.shape[2:]):
            joint = Joint("depthwise", self.stride, relu, conv.bn, None if scale is None else scale.bn, self.rbr_skip)
            return joined_block(joint, x, conv.conv.weight, None if scale is None else scale.conv.weight)
        if self.groups != 1:
            return None
        if self.kernel == 1 and self.stride == 1:
            joint = Joint("pointwise", 1, relu, conv.bn, None, self.rbr_skip)
            return joined_block(joint, x, conv.conv.weight, None)
        if scale is None or self.rbr_skip is not None:
            return None
        z = conv.conv(x).contiguous(memory_format=torch.channels_last)
        other = scale.conv(x[..., :: self.stride, :: self.stride]).contiguous(memory_format=torch.channels_last)
        return joined_block(Joint("given", 1, relu, conv.bn, None, scale.bn), other, z, None)

    def _can_fold(self, x: Tensor) -> bool:
        form = _form.get()
        if form == "loop" or (form == "auto" and (x.device.type != "cpu" or len(self.rbr_conv) == 1)):
            return False
        if self.groups != 1 and not self.groups == x.shape[1] == self.outputs:
            return False
        if x.dtype not in (torch.float32, torch.float64) and not torch.is_autocast_enabled(x.device.type):
            return False
        norms = self.norms()
        return all(norm.training == self.training and norm.eps == norms[0].eps for norm in norms)

    def _folded(self, x: Tensor) -> Tensor | None:
        branches = self._branches()
        if not self.training:
            kernel, bias = fold_running(branches)
        elif torch.is_autocast_enabled(x.device.type):
            # Statistics are taken in full precision whatever the convolution itself is rounded to.
            with torch.autocast(x.device.type, enabled=False):
                folded = self._fold_batch(branches, x.float())
            if folded is None:
                return None
            kernel, bias = folded
        else:
            folded = self._fold_batch(branches, x)
            if folded is None:
                return None
            kernel, bias = folded
        return F.conv2d(x, kernel, bias, self.stride, self.kernel // 2, 1, self.groups)

    def _fold_batch(self, branches: Branches, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Kernel and bias with the batch's statistics; None where these would lose too many digits."""
        mean, covariance, count = patch_moments(x, self.kernel, self.stride, self.groups)
        fold = fold_batch(branches, mean, covariance)
        if count < 2 or fold.condition * torch.finfo(x.dtype).eps > MAX_LOSS:
            return None
        update_running(branches.norms, fold.mean, fold.variance, count)
        return fold.kernel, fold.bias

    def _branches(self) -> Branches:
        conv = [(branch.conv.weight, branch.bn) for branch in self.conv_branches]
        scale = None if self.rbr_scale is None else (self.rbr_scale.conv.weight, self.rbr_scale.bn)
        return collect(conv, scale, self.rbr_skip, self.groups)

    @property
    def conv_branches(self) -> list[Branch]:
        """The branches with the block's full kernel."""
        return [branch for branch in self.rbr_conv if isinstance(branch, Branch)]

    def norms(self) -> list[BatchNorm]:
        """Every BN of the block."""
        more = [self.rbr_scale.bn] if self.rbr_scale is not None else []
        return [*(branch.bn for branch in self.conv_branches), *more, *([self.rbr_skip] if self.rbr_skip else [])]


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
