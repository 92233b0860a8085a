"""Pin predicted points to known ones: a thin-plate spline carries the known corrections to the points between."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_KNOWN = 3
"""Fewer known points only shift the rest."""
_TOGETHER = 1e-6
"""Known points whose predictions lie closer than this (in sizes of the face) count as one."""


def pin(points: NDArray[np.float64], known: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move points (N, 2) so that those that are known (N, 2; NaN where not) lie where they are known to be.

    The map is the thin-plate spline through all known points: an affine map plus the least bending that hits each.

    >>> points = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5]])
    >>> known = points + [2.0, 3.0]; known[4] = np.nan
    >>> np.round(pin(points, known)[4], 9).tolist()
    [2.5, 3.5]
    """
    labelled = np.isfinite(known).all(1)
    if not labelled.any():
        return points.copy()
    source, target = points[labelled], known[labelled]
    if len(source) < LEAST_KNOWN or np.linalg.matrix_rank(source - source.mean(0), tol=1e-9) < 2:
        moved = np.asarray(points + (target - source).mean(0))
    else:
        moved = _spline(source, target, points)
    moved[labelled] = target
    return moved


def _spline(
    source: NDArray[np.float64], target: NDArray[np.float64], points: NDArray[np.float64]
) -> NDArray[np.float64]:
    centre, size = source.mean(0), float(np.ptp(source, axis=0).max())
    place, wanted, asked = (source - centre) / size, (target - source) / size, (points - centre) / size
    place, wanted = _apart(place, wanted)
    count = len(place)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = _bending(place, place)
    system[:count, count:] = _affine(place)
    system[count:, :count] = _affine(place).T
    solution = np.linalg.lstsq(system, np.vstack([wanted, np.zeros((3, 2))]), rcond=None)[0]
    shift = _bending(asked, place) @ solution[:count] + _affine(asked) @ solution[count:]
    return np.asarray(points + shift * size)


def _apart(place: NDArray[np.float64], wanted: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each place once, with the mean of what is wanted there."""
    _, which = np.unique(np.round(place / _TOGETHER), axis=0, return_inverse=True)
    which = which.reshape(-1)
    count = np.bincount(which)[:, None]
    means = [
        np.stack([np.bincount(which, values[:, axis]) for axis in range(2)], 1) / count for values in (place, wanted)
    ]
    return means[0], means[1]


def _bending(points: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """r^2 ln r of every distance, 0 at r = 0."""
    squared = np.square(points[:, None] - centres[None]).sum(-1)
    return np.asarray(0.5 * squared * np.log(np.where(squared > 0, squared, 1)))


def _affine(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.hstack([np.ones((len(points), 1)), points])
