"""Head pose from landmarks alone, by fitting the mean face: for statistics, not for training."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.layouts import IBUG68, IBUG68_IN_WFLW98, WFLW98, Layout

RIGID = (33, 35, 37, 42, 44, 46, *range(51, 60), 60, 64, 68, 72, 76, 82, 16)
"""Points of the 98 that expressions move little and that mean the same place at every yaw, and the chin."""
FOCAL_SIDES = 5.0
"""Assumed focal length, in sides of the landmark box."""
MIN_POINTS = 6

Angles = tuple[float, float, float]


@lru_cache(maxsize=4)
def _mean_points(layout_name: str) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    from train.data.synth import mean_face_3d

    mean = mean_face_3d()
    if layout_name == WFLW98.name:
        chosen = np.asarray(RIGID, dtype=np.intp)
        return chosen, mean[chosen]
    place = {wflw: ibug for ibug, wflw in enumerate(IBUG68_IN_WFLW98)}
    shared = [point for point in RIGID if point in place]
    return np.asarray([place[point] for point in shared], dtype=np.intp), mean[shared]


def can_estimate(layout: Layout) -> bool:
    """Whether the mean face knows the points of a layout."""
    return layout.name in (WFLW98.name, IBUG68.name)


def estimate_pose(points: NDArray[Any], layout: Layout) -> Angles | None:
    """Yaw, pitch, roll in radians (see `train.data.synth.camera`), or None when too few points are known."""
    import cv2

    if not can_estimate(layout):
        return None
    chosen, mean = _mean_points(layout.name)
    seen = np.asarray(points, dtype=np.float64)[chosen]
    known = np.isfinite(seen).all(axis=1)
    if int(known.sum()) < MIN_POINTS:
        return None
    seen, mean = seen[known], mean[known]
    low, high = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
    focal = FOCAL_SIDES * float((high - low).max())
    cx, cy = ((low + high) / 2).tolist()
    camera = np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1.0]])
    try:
        done, turn, move = cv2.solvePnP(mean, seen, camera, None, flags=cv2.SOLVEPNP_SQPNP)
        if not done:
            return None
        turn, _ = cv2.solvePnPRefineLM(mean, seen, camera, None, turn, move)
    except cv2.error:
        return None
    from train.data.synth import angles_of

    return angles_of(np.asarray(cv2.Rodrigues(turn)[0]))
