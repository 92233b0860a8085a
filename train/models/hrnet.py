"""HRNet: maps of several resolutions side by side; heatmaps, one per point, whose centre of mass is the landmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.models.backbones import BasicBlock, Units, divisible
from train.models.norm import BatchNorm

STEM, BOTTLENECK, EXPANSION = 64, 64, 4
STAGES = ((1, 2), (4, 3), (3, 4))
"""Modules and branches of the stages behind the first."""
BLOCKS = 4


def branch_channels(width: float) -> tuple[int, ...]:
    """W18 at width 1: 18, 36, 72, 144."""
    first = max(2, round(18 * width))
    return tuple(first << i for i in range(4))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, added to the input before the last ReLU."""

    def __init__(self, unit: Units, inputs: int, hidden: int) -> None:
        super().__init__()
        outputs = hidden * EXPANSION
        self.block = nn.Sequential(
            unit(inputs, hidden, 1), unit(hidden, hidden, 3), unit(hidden, outputs, 1, act="none")
        )
        self.shortcut = None if inputs == outputs else unit(inputs, outputs, 1, act="none")

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.block(x) + (x if self.shortcut is None else self.shortcut(x)))


class Exchange(nn.Module):
    """Every branch becomes the sum of all branches, brought to its resolution and channels."""

    def __init__(self, unit: Units, channels: Sequence[int]) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.ModuleList(self._path(unit, channels, source, target) for source in range(len(channels)))
            for target in range(len(channels))
        )

    @staticmethod
    def _path(unit: Units, channels: Sequence[int], source: int, target: int) -> nn.Module:
        if source == target:
            return nn.Identity()
        if source > target:
            return unit(channels[source], channels[target], 1, act="none")
        steps = target - source
        return nn.Sequential(
            *(unit(channels[source], channels[source], 3, stride=2) for _ in range(steps - 1)),
            unit(channels[source], channels[target], 3, stride=2, act="none"),
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        results = []
        for target, paths in enumerate(self.paths):
            size = maps[target].shape[-2:]
            total: Tensor | None = None
            for source, path in enumerate(cast(nn.ModuleList, paths)):
                part = path(maps[source])
                if source > target:
                    part = F.interpolate(part, size=size, mode="nearest")
                total = part if total is None else total + part
            assert total is not None  # noqa: S101 - there is at least one branch
            results.append(torch.relu(total))
        return results


class Module(nn.Module):
    """Residual blocks on every branch, then an exchange."""

    def __init__(self, unit: Units, channels: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(unit, c, c) for _ in range(BLOCKS))) for c in channels)
        self.exchange = Exchange(unit, channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        done: list[Tensor] = self.exchange([branch(x) for branch, x in zip(self.branches, maps, strict=True)])
        return done


class HRNet(nn.Module):
    """HRNet-W18 (at width 1) for landmarks; `heatmaps` gives what the coordinates are read from."""

    def __init__(self, width: float, points: int, input_size: int, *, fused: bool) -> None:
        super().__init__()
        unit = Units(fused)
        self.places: Tensor
        self.register_buffer("places", places(input_size // 4))
        channels = branch_channels(width)
        stem, hidden = divisible(STEM * width), divisible(BOTTLENECK * width)
        self.stem = nn.Sequential(unit(3, stem, 3, stride=2), unit(stem, stem, 3, stride=2))
        wide = hidden * EXPANSION
        self.first = nn.Sequential(*(Bottleneck(unit, wide if i else stem, hidden) for i in range(BLOCKS)))
        self.starts = nn.ModuleList(
            [
                unit(wide, channels[0], 3),
                unit(wide, channels[1], 3, stride=2),
                unit(channels[1], channels[2], 3, stride=2),
                unit(channels[2], channels[3], 3, stride=2),
            ]
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(Module(unit, channels[:branches]) for _ in range(count)) for count, branches in STAGES
        )
        every = sum(channels)
        mix = nn.Conv2d(every, every, 1)
        norm: list[nn.Module] = [] if fused else [BatchNorm(every)]
        self.head = nn.Sequential(mix, *norm, nn.ReLU())
        self.fc = nn.Conv2d(every, points, 1)

    def heatmaps(self, x: Tensor) -> Tensor:
        """(B, points, S/4, S/4): how much speaks for each place, as logits."""
        x = self.first(self.stem(x))
        maps = [self.starts[0](x), self.starts[1](x)]
        for index, stage in enumerate(self.stages):
            if index:
                maps.append(self.starts[index + 1](maps[-1]))
            for module in cast(nn.ModuleList, stage):
                maps = module(maps)
        size = maps[0].shape[-2:]
        same = [maps[0], *(F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps[1:])]
        result: Tensor = self.fc(self.head(torch.cat(same, 1)))
        return result

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_with_heatmaps(x)[0]

    def forward_with_heatmaps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks (B, 2N) in [0, 1] of the crop, and the heatmaps."""
        maps = self.heatmaps(x)
        return centre_of_mass(maps, self.places), maps


def places(side: int) -> Tensor:
    """Centres (x, y) in [0, 1] of the cells of a square map, row after row.

    >>> places(2).tolist()
    [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    """
    centres = (torch.arange(side) + 0.5) / side
    return torch.stack([centres.repeat(side), centres.repeat_interleave(side)], 1)


def centre_of_mass(heatmaps: Tensor, cells: Tensor) -> Tensor:
    """Soft argmax: logits (B, N, S, S) and the places of their cells -> (B, 2N), x0, y0, x1, ... in [0, 1]."""
    share = heatmaps.flatten(2).softmax(2)
    return (share @ cells).flatten(1)
