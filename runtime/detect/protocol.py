"""What a detector is: a call from picture to boxes, and the rule from its boxes to the boxes that landmarks fill."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from runtime.geometry import Box
from runtime.images import Image


@dataclass(frozen=True)
class Detection:
    """One face as a detector sees it."""

    box: Box
    score: float | None = None
    eyes: tuple[tuple[float, float], tuple[float, float]] | None = None
    """The eye at the image's left and the other, for detectors that find key points."""


@dataclass(frozen=True)
class FaceRule:
    """From a detector's box to the square that the face's landmarks fill.

    Its side is `scale` times the longer side of the box, its centre moved by `shift` in fractions of that longer side.
    The model's own crop rule then applies to this square as to landmark boxes. `toolkit fit-crop` measures a rule.
    """

    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)

    def apply(self, box: Box) -> Box:
        """The landmark square of a detector's box.

        >>> FaceRule(0.5, (0.0, 0.1)).apply(Box(0, 0, 80, 100))
        Box(x0=15.0, y0=35.0, x1=65.0, y1=85.0)
        """
        longer = max(box.width, box.height)
        cx, cy = box.centre
        cx, cy, half = cx + self.shift[0] * longer, cy + self.shift[1] * longer, self.scale * longer / 2
        return Box(cx - half, cy - half, cx + half, cy + half)


LANDMARK_RULE = FaceRule()
"""For boxes that are landmark boxes already."""


@runtime_checkable
class Detector(Protocol):
    """Anything that finds faces. Write your own: three members are all that is asked for."""

    name: str
    rule: FaceRule

    def __call__(self, image: Image) -> list[Detection]:
        """Faces of a BGR uint8 picture, best first."""
        ...
