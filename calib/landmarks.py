"""How far quantisation moves the landmarks, as a fraction of the normalising distance, with no label needed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UsageError
from runtime.layouts import Normaliser
from runtime.spec import ModelSpec
from train.metrics import BOX, normaliser_for

_SMALLEST = 0.05
"""Of the crop's side: a face whose eyes nearly coincide in projection must not outweigh all others."""


def _normaliser(spec: ModelSpec) -> Normaliser | str:
    try:
        return normaliser_for(spec.point_layout, spec.normaliser)
    except UsageError:
        return BOX


def divisors(outputs: NDArray[Any], spec: ModelSpec) -> NDArray[np.float64]:
    """The normalising distance of each face in network outputs (N, 2P), in the same unit as they."""
    points = np.asarray(outputs, dtype=np.float64).reshape(len(outputs), spec.points, 2)
    normaliser = _normaliser(spec)
    if isinstance(normaliser, Normaliser):
        distance = np.asarray(normaliser.distance(points), dtype=np.float64)
    else:
        extent = points.max(1) - points.min(1)
        distance = np.sqrt(extent[:, 0] * extent[:, 1])
    return np.maximum(distance, _SMALLEST)


def landmark_shift(
    outputs: NDArray[Any], reference: NDArray[Any], spec: ModelSpec, size: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Mean point distance of each face between two sets of outputs, over the face's normalising distance."""
    size = divisors(reference, spec) if size is None else size
    gap = (np.asarray(outputs, dtype=np.float64) - reference).reshape(len(outputs), spec.points, 2)
    return np.asarray(np.hypot(gap[..., 0], gap[..., 1]).mean(1) / size)
