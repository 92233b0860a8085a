"""No detector at all: the picture is the face."""

from __future__ import annotations

from runtime.detect.protocol import Detection, FaceRule
from runtime.geometry import Box
from runtime.images import Image


class WholeImage:
    """Takes the picture itself as the crop of one face, as data sets of cut-out faces have it."""

    name = "whole image"

    def __init__(self, rule: FaceRule | None = None) -> None:
        self.rule = rule or FaceRule(scale=1 / 1.2)

    def __call__(self, image: Image) -> list[Detection]:
        """One box around everything."""
        height, width = image.shape[:2]
        return [Detection(Box(-0.5, -0.5, width - 0.5, height - 0.5))]
