"""The auxiliary net of PFLD: reads a middle map, tells the head pose; exists in training only."""

from __future__ import annotations

from torch import Tensor, nn

from train.models.blocks import conv_block


class AuxiliaryNet(nn.Module):
    """Map of `channels` -> (B, 3): yaw, pitch, roll in radians."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_block(channels, 128, 3, stride=2),
            conv_block(128, 128, 3),
            conv_block(128, 32, 3, stride=2),
            conv_block(32, 128, 3),
        )
        self.angles = nn.Sequential(nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 3))
        nn.init.zeros_(self.angles[-1].bias)  # type: ignore[arg-type]

    def forward(self, stage: Tensor) -> Tensor:
        y: Tensor = self.angles(self.features(stage).mean((2, 3)))
        return y
