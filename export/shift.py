"""How far one predictor's landmarks lie from another's, in crop pixels and in percent of the eye distance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.spec import ModelSpec

SMALLEST_FACE = 0.05
"""Of the crop's side: a face in profile, whose eyes nearly coincide, must not outweigh all others."""


@dataclass(frozen=True)
class Shift:
    """Landmark displacement over faces and points."""

    mean_pixels: float
    max_pixels: float
    mean_percent: float
    """Mean displacement of each face over its normaliser, averaged over faces, in percent."""
    worst_percent: float
    """The same of the worst face."""
    normaliser: str


def landmark_shift(found: NDArray[Any], wanted: NDArray[Any], spec: ModelSpec) -> Shift:
    """Displacement of network outputs (B, 2N) against reference outputs of the same faces."""
    if found.shape != wanted.shape:
        raise InputError(f"landmark shift: outputs of different shapes {found.shape} and {wanted.shape}")
    size = (len(wanted), spec.points, 2)
    truth = np.asarray(wanted, np.float64).reshape(size) * spec.input_size
    gap = np.asarray(found, np.float64).reshape(size) * spec.input_size - truth
    distance = np.hypot(gap[..., 0], gap[..., 1])
    if not np.isfinite(distance).all():
        return Shift(math.inf, math.inf, math.inf, math.inf, _name(spec))
    percent = 100 * distance.mean(1) / np.maximum(_face_size(truth, spec), SMALLEST_FACE * spec.input_size)
    return Shift(
        float(distance.mean()), float(distance.max()), float(percent.mean()), float(percent.max()), _name(spec)
    )


def _name(spec: ModelSpec) -> str:
    names = [n.name for n in spec.point_layout.normalisers]
    return spec.normaliser if spec.normaliser in names else "box"


def _face_size(points: NDArray[np.float64], spec: ModelSpec) -> NDArray[np.float64]:
    """The layout's normaliser; the root of the landmark box's area for layouts without one."""
    if _name(spec) == "box":
        extent = points.max(1) - points.min(1)
        return np.asarray(np.sqrt(extent[:, 0] * extent[:, 1]))
    return np.asarray(spec.point_layout.normaliser(spec.normaliser).distance(points))
