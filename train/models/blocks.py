"""Plain building blocks: convolution + BN + ReLU, inverted residual, ghost module and ghost bottleneck.

A `Maker` decides what one convolution of a ghost net is: a plain block (GhostNet) or a MobileOne block (GhostOne),
in training form or fused. Names of sub-modules are those of the published checkpoints.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from runtime.errors import UsageError
from train.models.norm import BatchNorm


class Maker(Protocol):
    """Builds one convolution block with padding k // 2."""

    def __call__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> nn.Module: ...


def conv_block(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, linear: bool = False
) -> nn.Sequential:
    """Convolution, BN, and ReLU unless linear."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        BatchNorm(outputs),
    ]
    return nn.Sequential(*layers) if linear else nn.Sequential(*layers, nn.ReLU())


def fused_conv_block(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, linear: bool = False
) -> nn.Sequential:
    """What `conv_block` becomes when its BN is folded into the convolution."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
    return nn.Sequential(conv) if linear else nn.Sequential(conv, nn.ReLU())


def head_conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """The last convolution: covers the whole map, no BN, no bias."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, bias=False), nn.ReLU())


class InvertedResidual(nn.Module):
    """MobileNetV2: expand, depthwise, project linearly; added to its input when `residual`."""

    def __init__(self, make: Maker, inputs: int, outputs: int, *, stride: int, residual: bool, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = residual
        self.inv_res = nn.Sequential(
            make(inputs, hidden, 1),
            make(hidden, hidden, 3, stride=stride, groups=hidden),
            make(hidden, outputs, 1, linear=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inv_res(x)
        return x + y if self.residual else y


class GhostModule(nn.Module):
    """Half of the channels by a 1x1 convolution, the other half by a cheap depthwise 3x3 on the first."""

    def __init__(self, make: Maker, inputs: int, outputs: int, *, linear: bool = False) -> None:
        super().__init__()
        if outputs % 2:
            raise UsageError(f"a ghost module needs an even number of output channels, found {outputs}")
        half = outputs // 2
        self.primary_conv = make(inputs, half, 1, linear=linear)
        self.cheap_operation = make(half, half, 3, groups=half, linear=linear)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary_conv(x)
        return torch.cat([primary, self.cheap_operation(primary)], 1)


class GhostBottleneck(nn.Module):
    """Ghost module, depthwise 3x3 when the stride is 2, linear ghost module; GhostNet adds a shortcut."""

    def __init__(self, make: Maker, inputs: int, hidden: int, outputs: int, *, stride: int, shortcut: bool) -> None:
        super().__init__()
        down = make(hidden, hidden, 3, stride=stride, groups=hidden, linear=True) if stride > 1 else nn.Identity()
        self.ghost_conv = nn.Sequential(
            GhostModule(make, inputs, hidden), down, GhostModule(make, hidden, outputs, linear=True)
        )
        self.shortcut: nn.Module | None = None
        if shortcut and stride == 1 and inputs == outputs:
            self.shortcut = nn.Identity()
        elif shortcut:
            self.shortcut = nn.Sequential(
                make(inputs, inputs, 3, stride=stride, groups=inputs, linear=True),
                make(inputs, outputs, 1, linear=True),
            )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.ghost_conv(x)
        return y if self.shortcut is None else y + self.shortcut(x)
