"""Which labels are kept, and how much their points count; fractions of the face's size unless said otherwise."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UsageError

KEPT, DISAGREE, APART, OUTSIDE, UNREADABLE = "kept", "disagreement", "distance", "outside", "unreadable"
TWIN = "twin"
FATES = {
    KEPT: "kept",
    DISAGREE: "left out: the models disagree",
    APART: "left out: the models are far from the known points",
    OUTSIDE: "left out: points outside the photo",
    UNREADABLE: "left out: photo unreadable",
    TWIN: "left out: the same picture is in the data to stay apart from",
}
"""What became of a face, in words."""


@dataclass(frozen=True)
class Rules:
    """Filters and weights."""

    max_disagreement: float = 0.03
    """Largest mean spread of a face's points."""
    max_distance: float = 0.08
    """Largest mean distance of the prediction from the known points, where some are known."""
    half_weight: float = 0.02
    """Spread at which a point counts half; 0 = every point counts 1."""
    pin: bool = False
    """Move predictions so that known points are hit exactly."""

    def __post_init__(self) -> None:
        for name in ("max_disagreement", "max_distance", "half_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0) or (name != "half_weight" and value == 0):
                raise UsageError(
                    f"--{name.replace('_', '-')} {value:g}: expected a fraction of the face's size above 0"
                )

    def weights(self, spread: NDArray[np.float64]) -> NDArray[np.float64]:
        """1 / (1 + (spread / half)^2): 1 where all agree, a half at the half-weight spread, near 0 far beyond it."""
        if not self.half_weight:
            return np.ones_like(spread)
        return np.asarray(1 / (1 + np.square(spread / self.half_weight)))

    def fate(self, disagreement: float, distance: float) -> str:
        """What becomes of a face; an unknown (NaN) distance is no reason to leave it out."""
        if disagreement > self.max_disagreement:
            return DISAGREE
        return APART if distance > self.max_distance else KEPT

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
