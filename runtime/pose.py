"""What landmarks say about the face: where the head points, and how far eyes and mouth are open."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import degrees
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.layouts import IBUG68_IN_WFLW98
from runtime.lazy import require
from runtime.meanface import MEAN_FACE

RIGID_WFLW = (33, 35, 37, 42, 44, 46, *range(51, 60), 60, 64, 68, 72, 76, 82, 16)
"""Points of the 98 that expressions move little and that mean the same place at every yaw, and the chin."""
FOCAL_SIDES = 5.0
"""Assumed focal length, in sides of the landmark box: the camera of a photo is not known."""
MIN_POINTS = 6


@dataclass(frozen=True)
class Pose:
    """Head angles in degrees.

    Yaw > 0: the nose points to the image's right. Pitch > 0: the nose is lifted. Roll > 0: the top of the head tips to
    the image's right.
    """

    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True)
class Opening:
    """Points that tell how far something is open: the mean gap of the pairs, over the distance of the corners."""

    corners: tuple[int, int]
    pairs: tuple[tuple[int, int], ...]

    def of(self, points: NDArray[Any]) -> float:
        """0 when shut; an eye is about 0.3 when open.

        >>> Opening((0, 1), ((2, 3),)).of(np.array([[0, 0], [10, 0], [5, -1], [5, 2]]))
        0.3
        """
        span = float(np.hypot(*(points[self.corners[1]] - points[self.corners[0]])))
        gaps = [float(np.hypot(*(points[low] - points[high]))) for high, low in self.pairs]
        return sum(gaps) / len(gaps) / span if span > 0 else 0.0


_WFLW_OPENINGS = {
    "left": Opening((60, 64), ((61, 67), (62, 66), (63, 65))),
    "right": Opening((68, 72), ((69, 75), (70, 74), (71, 73))),
    "mouth": Opening((88, 92), ((89, 95), (90, 94), (91, 93))),
}
_IBUG_OPENINGS = {
    "left": Opening((36, 39), ((37, 41), (38, 40))),
    "right": Opening((42, 45), ((43, 47), (44, 46))),
    "mouth": Opening((60, 64), ((61, 67), (62, 66), (63, 65))),
}
OPENINGS: dict[str, dict[str, Opening]] = {"wflw98": _WFLW_OPENINGS, "ibug68": _IBUG_OPENINGS}
"""By layout: the eye at the image's left, the one at its right, and the inner lips."""


@lru_cache(maxsize=4)
def rigid_points(layout: str) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Indices and mean places (millimetres) of the points that a pose is fitted on."""
    mean = np.asarray(MEAN_FACE[layout], dtype=np.float64)
    if layout == "wflw98":
        chosen = np.asarray(RIGID_WFLW, dtype=np.intp)
    else:
        place = {wflw: ibug for ibug, wflw in enumerate(IBUG68_IN_WFLW98)}
        chosen = np.asarray([place[point] for point in RIGID_WFLW if point in place], dtype=np.intp)
    return chosen, mean[chosen]


def head_pose(points: NDArray[Any], layout: str) -> Pose | None:
    """Fit the mean face by solvePnP; None for a layout that it does not know, or for points that fit no pose."""
    if layout not in MEAN_FACE:
        return None
    cv2 = require("cv2", "head pose")
    chosen, mean = rigid_points(layout)
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
    return _angles(np.asarray(cv2.Rodrigues(turn)[0]))


def _angles(matrix: NDArray[np.float64]) -> Pose:
    """Of Rz(roll) Rx(pitch) Ry(yaw), the axes of `runtime.meanface`."""
    pitch = float(np.arcsin(np.clip(-matrix[2, 1], -1.0, 1.0)))
    yaw = float(np.arctan2(matrix[2, 0], matrix[2, 2]))
    roll = float(np.arctan2(-matrix[0, 1], matrix[1, 1]))
    return Pose(degrees(yaw), degrees(pitch), degrees(roll))
