"""What every reader, generator and cache gives: typed faces from a `FaceSource`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.images import Image
from runtime.layouts import Layout

ATTRIBUTES = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")
"""The six WFLW flags, in list order; they also name the six test subsets."""


@dataclass(frozen=True)
class FaceSample:
    """One labelled face of one photo."""

    image: Path
    """The photo; for a face that exists only in memory, a name that identifies it."""
    points: NDArray[np.float32]
    """(N, 2) in photo pixels, pixel centres are integers; a NaN row is a point this source does not label."""
    layout: str
    box: tuple[float, float, float, float] | None = None
    """The annotated box x0, y0, x1, y1 (not the landmark box)."""
    attributes: tuple[bool, bool, bool, bool, bool, bool] | None = None
    """The flags of `ATTRIBUTES`; None when unknown."""
    angles: tuple[float, float, float] | None = None
    """Yaw, pitch, roll in radians; None when unknown."""
    origin: str = ""
    """Where the label stands, as file:line."""
    weights: NDArray[np.float32] | None = None
    """(N,) how much each point counts in training; None = every labelled point 1."""
    group: str = ""
    """Faces of one photo (or one person) share a group, so that a split never tears them apart."""


class FaceSource(Protocol):
    """A sequence of labelled faces whose pixels are fetched on demand."""

    @property
    def name(self) -> str: ...

    @property
    def layout(self) -> Layout: ...

    def __len__(self) -> int: ...

    def sample(self, index: int) -> FaceSample: ...

    def photo(self, index: int) -> Image:
        """BGR uint8 pixels that the sample's points refer to."""
        ...
