"""The two skeletons of the family: PFLD (MobileNetV2 blocks) and the ghost nets; both end in a multi-scale head."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from runtime.errors import UsageError
from train.models.blocks import GhostBottleneck, InvertedResidual, Maker, head_conv


def channels(full: int, width: float) -> int:
    """Scale a channel count to the nearest even number, at least 2.

    Even, because ghost modules halve it; equal to the published nets' int(full * width) wherever that is even.

    >>> channels(504, 0.25), channels(120, 0.125), channels(16, 0.01)
    (126, 16, 2)
    """
    return max(2, 2 * math.floor(full * width / 2 + 0.5))


def _pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


@dataclass(frozen=True)
class Shape:
    """What a skeleton needs to know about the model."""

    width: float
    input_size: int
    points: int

    def __post_init__(self) -> None:
        if self.input_size < 16 or self.input_size % 16:
            raise UsageError(f"input size must be a multiple of 16, found {self.input_size}")

    def __call__(self, full: int) -> int:
        return channels(full, self.width)


@dataclass(frozen=True)
class Stage:
    """A stage of a ghost net: hidden channels of its first and its other bottlenecks, output channels, depth."""

    first: int
    rest: int
    outputs: int
    depth: int
    stride: int = 2


GHOSTNET_STAGES = {
    "conv3": Stage(128, 160, 80, 3),
    "conv4": Stage(240, 288, 96, 3),
    "conv5": Stage(384, 576, 144, 4),
    "conv6": Stage(288, 288, 16, 1, stride=1),
}
SLIM_STAGES = {
    "conv3": Stage(96, 120, 80, 3),
    "conv4": Stage(200, 240, 96, 3),
    "conv5": Stage(336, 504, 144, 4),
    "conv6": Stage(216, 216, 16, 1, stride=1),
}


class GhostLandmarks(nn.Module):
    """The ghost nets: five scales are pooled, concatenated and mapped to points by one linear layer."""

    def __init__(self, shape: Shape, make: Maker, stages: dict[str, Stage], *, shortcut: bool) -> None:
        super().__init__()
        stem = shape(64)
        self.conv1 = make(3, stem, 3, stride=2)
        self.conv2 = make(stem, stem, 3, groups=stem)
        inputs, features = stem, stem
        self._stages: list[list[str]] = []
        for name, stage in stages.items():
            names = [name] if stage.depth == 1 else [f"{name}_{i + 1}" for i in range(stage.depth)]
            for i, block in enumerate(names):
                hidden, stride = (stage.first, stage.stride) if i == 0 else (stage.rest, 1)
                outputs = shape(stage.outputs)
                bottleneck = GhostBottleneck(make, inputs, shape(hidden), outputs, stride=stride, shortcut=shortcut)
                self.add_module(block, bottleneck)
                inputs = outputs
            self._stages.append(names)
            if stage.stride > 1:
                features += inputs
        self.conv7 = make(inputs, shape(32), 3)
        self.conv8 = head_conv(shape(32), shape(128), shape.input_size // 16)
        self.fc = nn.Linear(features + shape(128), 2 * shape.points)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x))
        scales = [_pooled(x)]
        for names in self._stages:
            for name in names:
                x = getattr(self, name)(x)
            scales.append(_pooled(x))
        scales[-1] = self.conv8(self.conv7(x)).flatten(1)  # conv6 is not pooled; the head convolution stands for it
        y: Tensor = self.fc(torch.cat(scales, 1))
        return y


class PFLD(nn.Module):
    """PFLD with MobileNetV2 blocks; `forward_with_stage` also gives the map that the auxiliary pose net reads."""

    STAGE3 = ("conv3_1", "conv3_2", "conv3_3", "conv3_4", "conv3_5")
    STAGE5 = ("conv4", "conv5_1", "conv5_2", "conv5_3", "conv5_4", "conv5_5", "conv5_6")

    def __init__(self, shape: Shape, make: Maker) -> None:
        super().__init__()
        c64, c128, c16, c32 = shape(64), shape(128), shape(16), shape(32)
        self.stage_channels = c64
        self.conv1 = make(3, c64, 3, stride=2)
        self.conv2 = make(c64, c64, 3, groups=c64)
        for i, name in enumerate(self.STAGE3):
            block = InvertedResidual(make, c64, c64, stride=1 if i else 2, residual=bool(i), expansion=2)
            self.add_module(name, block)
        self.conv4 = InvertedResidual(make, c64, c128, stride=2, residual=False, expansion=2)
        for i, name in enumerate(self.STAGE5[1:]):
            self.add_module(name, InvertedResidual(make, c128, c128, stride=1, residual=bool(i), expansion=4))
        self.conv6 = InvertedResidual(make, c128, c16, stride=1, residual=False, expansion=2)
        self.conv7 = make(c16, c32, 3, stride=2)
        self.conv8 = head_conv(c32, c128, shape.input_size // 16)
        self.fc = nn.Linear(c16 + c32 + c128, 2 * shape.points)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_with_stage(x)[0]

    def forward_with_stage(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks (B, 2N), and the map after the third stage."""
        x = self.conv2(self.conv1(x))
        for name in self.STAGE3:
            x = getattr(self, name)(x)
        stage = x
        for name in self.STAGE5:
            x = getattr(self, name)(x)
        x6 = self.conv6(x)
        x7 = self.conv7(x6)
        scales = [_pooled(x6), _pooled(x7), self.conv8(x7).flatten(1)]
        return self.fc(torch.cat(scales, 1)), stage
