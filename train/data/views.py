"""The same augmented crop for another network: larger, perhaps wider, by the same affine map and the same draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class View:
    """How another network sees the square that a crop of `base` pixels shows."""

    size: int
    """Side of its input in pixels."""
    ratio: float
    """Side of its square over the side of the crop's square; both share the centre."""
    padding: int
    base: int

    @property
    def scale(self) -> float:
        """Its pixels per pixel of the crop."""
        return self.size / (self.base * self.ratio)

    @property
    def offset(self) -> float:
        """Where the crop's pixel 0 lies, along either axis."""
        return self.scale * (0.5 - self.base / 2) + self.size / 2 - 0.5

    def is_crop(self, padding: int) -> bool:
        """Whether it is the crop itself."""
        return self.size == self.base and self.ratio == 1 and self.padding == padding

    def matrices(self, crop: NDArray[np.float64]) -> NDArray[np.float64]:
        """Affine maps (B, 2, 3) into the crop -> into the view."""
        moved = crop * self.scale
        moved[:, :, 2] += self.offset
        return moved
