"""MobileOne block: several linear branches that are summed in training and become one convolution afterwards."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from torch import Tensor, nn

from train.models.norm import BatchNorm

BranchForm = Literal["loop", "wide", "folded"]
"""How the branches are computed: one after the other, as one wide convolution, or folded into a single one."""

_form: ContextVar[BranchForm] = ContextVar("branch_form", default="loop")


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
        self.rbr_scale = _branch(inputs, outputs, 1, stride, groups) if kernel > 1 else None
        self.activation: nn.Module = nn.Identity() if linear else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.branch_sum(x))
        return y

    def branch_sum(self, x: Tensor) -> Tensor:
        """The sum of all branches, before the activation."""
        parts = [branch(x) for branch in self.rbr_conv]
        if self.rbr_scale is not None:
            parts.append(self.rbr_scale(x))
        if self.rbr_skip is not None:
            parts.append(self.rbr_skip(x))
        total: Tensor = parts[0]
        for part in parts[1:]:
            total = total + part
        return total


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
