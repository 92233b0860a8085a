"""Backbones that the field compares with: MobileNetV3, ShuffleNetV2, ResNet-18 and MobileOne S0.

Each is a published classifier whose last layer puts out landmarks instead of classes. With 1000 outputs and width 1 it
has exactly the published number of parameters, which is how the tests know that it is the published network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from train.models.blocks import Maker
from train.models.norm import BatchNorm

Activation = Literal["relu", "hardswish", "none"]
_ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {"relu": nn.ReLU, "hardswish": nn.Hardswish}


def divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple of `by`, never more than a tenth below the wish: how the MobileNets round.

    >>> divisible(72 / 4), divisible(88 * 0.25), divisible(3)
    (24, 24, 8)
    """
    nearest = max(by, int(channels + by / 2) // by * by)
    return nearest + by if nearest < 0.9 * channels else nearest


@dataclass(frozen=True)
class Units:
    """Makes convolution + BN + activation, or, fused, convolution with bias + activation."""

    fused: bool
    eps: float = 1e-5

    def __call__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, act: Activation = "relu"
    ) -> nn.Sequential:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=self.fused)
        layers: list[nn.Module] = [conv] if self.fused else [conv, BatchNorm(outputs, eps=self.eps)]
        if act != "none":
            layers.append(_ACTIVATIONS[act]())
        return nn.Sequential(*layers)


class SqueezeExcite(nn.Module):
    """Every channel times a factor that follows from the means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = divisible(channels // 4)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        factor = self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * nn.functional.hardsigmoid(factor)


@dataclass(frozen=True)
class V3Row:
    """A block of MobileNetV3: kernel, expanded and output channels, squeeze-excite, activation, stride."""

    kernel: int
    expanded: int
    outputs: int
    squeeze: bool
    act: Activation
    stride: int


def _rows(*rows: tuple[int, int, int, int, str, int]) -> tuple[V3Row, ...]:
    names: dict[str, Activation] = {"RE": "relu", "HS": "hardswish"}
    return tuple(V3Row(k, e, o, bool(s), names[a], t) for k, e, o, s, a, t in rows)


@dataclass(frozen=True)
class V3Table:
    """A MobileNetV3: its blocks and the width of the layer in front of the outputs."""

    rows: tuple[V3Row, ...]
    hidden: int


V3_SMALL = V3Table(
    _rows(
        (3, 16, 16, 1, "RE", 2),
        (3, 72, 24, 0, "RE", 2),
        (3, 88, 24, 0, "RE", 1),
        (5, 96, 40, 1, "HS", 2),
        (5, 240, 40, 1, "HS", 1),
        (5, 240, 40, 1, "HS", 1),
        (5, 120, 48, 1, "HS", 1),
        (5, 144, 48, 1, "HS", 1),
        (5, 288, 96, 1, "HS", 2),
        (5, 576, 96, 1, "HS", 1),
        (5, 576, 96, 1, "HS", 1),
    ),
    1024,
)
V3_LARGE = V3Table(
    _rows(
        (3, 16, 16, 0, "RE", 1),
        (3, 64, 24, 0, "RE", 2),
        (3, 72, 24, 0, "RE", 1),
        (5, 72, 40, 1, "RE", 2),
        (5, 120, 40, 1, "RE", 1),
        (5, 120, 40, 1, "RE", 1),
        (3, 240, 80, 0, "HS", 2),
        (3, 200, 80, 0, "HS", 1),
        (3, 184, 80, 0, "HS", 1),
        (3, 184, 80, 0, "HS", 1),
        (3, 480, 112, 1, "HS", 1),
        (3, 672, 112, 1, "HS", 1),
        (5, 672, 160, 1, "HS", 2),
        (5, 960, 160, 1, "HS", 1),
        (5, 960, 160, 1, "HS", 1),
    ),
    1280,
)


class V3Block(nn.Module):
    """Expand (where that changes anything), depthwise, squeeze-excite, project; added to the input where it fits."""

    def __init__(self, unit: Units, inputs: int, row: V3Row, width: float) -> None:
        super().__init__()
        hidden, outputs = divisible(row.expanded * width), divisible(row.outputs * width)
        self.residual = row.stride == 1 and inputs == outputs
        parts: list[nn.Module] = [] if hidden == inputs else [unit(inputs, hidden, 1, act=row.act)]
        parts.append(unit(hidden, hidden, row.kernel, stride=row.stride, groups=hidden, act=row.act))
        if row.squeeze:
            parts.append(SqueezeExcite(hidden))
        parts.append(unit(hidden, outputs, 1, act="none"))
        self.block = nn.Sequential(*parts)
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y


class MobileNetV3(nn.Module):
    """MobileNetV3: blocks by table, pooled, one hidden layer, outputs."""

    def __init__(self, table: V3Table, width: float, outputs: int, *, fused: bool) -> None:
        super().__init__()
        unit = Units(fused, eps=1e-3)
        channels = divisible(16 * width)
        self.stem = unit(3, channels, 3, stride=2, act="hardswish")
        blocks: list[nn.Module] = []
        for row in table.rows:
            block = V3Block(unit, channels, row, width)
            blocks.append(block)
            channels = block.outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = unit(channels, 6 * channels, 1, act="hardswish")
        hidden = table.hidden if width >= 1 else divisible(table.hidden * width)
        self.hidden = nn.Linear(6 * channels, hidden)
        self.fc = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.blocks(self.stem(x))).mean((2, 3))
        y: Tensor = self.fc(nn.functional.hardswish(self.hidden(x)))
        return y


def shuffled(channels: int) -> Tensor:
    """The order that interleaves two halves.

    >>> shuffled(6).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    return torch.arange(channels).view(2, -1).t().flatten()


class ShuffleUnit(nn.Module):
    """ShuffleNetV2: half of the channels pass, half are convolved (both when it halves the map), then interleaved."""

    def __init__(self, unit: Units, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.kept = inputs // 2 if stride == 1 else 0
        working = inputs - self.kept
        self.passed: nn.Module | None = None
        if stride > 1:
            self.passed = nn.Sequential(
                unit(inputs, inputs, 3, stride=stride, groups=inputs, act="none"), unit(inputs, half, 1)
            )
        self.convolved = nn.Sequential(
            unit(working, half, 1),
            unit(half, half, 3, stride=stride, groups=half, act="none"),
            unit(half, half, 1),
        )
        self.order: Tensor
        self.register_buffer("order", shuffled(2 * half), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.passed is not None:
            both = torch.cat([self.passed(x), self.convolved(x)], 1)
        else:
            both = torch.cat([x[:, : self.kept], self.convolved(x[:, self.kept :])], 1)
        return both.index_select(1, self.order)


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2; the channel table is that of the 1.5x net at width 1."""

    STAGES = ((176, 4), (352, 8), (704, 4))

    def __init__(self, width: float, outputs: int, *, fused: bool) -> None:
        super().__init__()
        unit = Units(fused)
        channels = divisible(24 * width)
        self.stem = unit(3, channels, 3, stride=2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        blocks: list[nn.Module] = []
        for full, depth in self.STAGES:
            wanted = divisible(full * width)
            for i in range(depth):
                blocks.append(ShuffleUnit(unit, channels, wanted, 1 if i else 2))
                channels = wanted
        self.blocks = nn.Sequential(*blocks)
        self.last = unit(channels, divisible(1024 * width), 1)
        self.fc = nn.Linear(divisible(1024 * width), outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.last(self.blocks(self.pool(self.stem(x)))).mean((2, 3)))
        return y


class BasicBlock(nn.Module):
    """ResNet: two 3x3 convolutions, added to the input before the last ReLU."""

    def __init__(self, unit: Units, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = unit(inputs, outputs, 3, stride=stride)
        self.second = unit(outputs, outputs, 3, act="none")
        fits = stride == 1 and inputs == outputs
        self.shortcut = None if fits else unit(inputs, outputs, 1, stride=stride, act="none")

    def forward(self, x: Tensor) -> Tensor:
        passed = x if self.shortcut is None else self.shortcut(x)
        return torch.relu(self.second(self.first(x)) + passed)


class ResNet18(nn.Module):
    """ResNet-18."""

    STAGES = (64, 128, 256, 512)

    def __init__(self, width: float, outputs: int, *, fused: bool) -> None:
        super().__init__()
        unit = Units(fused)
        channels = divisible(64 * width)
        self.stem = unit(3, channels, 7, stride=2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        blocks: list[nn.Module] = []
        for index, full in enumerate(self.STAGES):
            wanted = divisible(full * width)
            blocks += [BasicBlock(unit, channels, wanted, 2 if index else 1), BasicBlock(unit, wanted, wanted)]
            channels = wanted
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.blocks(self.pool(self.stem(x))).mean((2, 3)))
        return y


class MobileOneS0(nn.Module):
    """MobileOne S0 as a backbone: depthwise and pointwise MobileOne blocks; `make` builds one of them."""

    STEM = 48
    STAGES: Sequence[tuple[int, int]] = ((48, 2), (128, 8), (256, 10), (1024, 1))

    def __init__(self, make: Maker, width: float, outputs: int) -> None:
        super().__init__()
        channels = divisible(self.STEM * width)
        self.stem = make(3, channels, 3, stride=2)
        blocks: list[nn.Module] = []
        for full, depth in self.STAGES:
            wanted = divisible(full * width)
            for i in range(depth):
                blocks.append(make(channels, channels, 3, stride=1 if i else 2, groups=channels))
                blocks.append(make(channels, wanted, 1))
                channels = wanted
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.blocks(self.stem(x)).mean((2, 3)))
        return y
