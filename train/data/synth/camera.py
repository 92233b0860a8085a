"""The camera of the synthetic faces: Euler angles, rotation, perspective.

Axes of the head, in millimetres: x to the image's right, y down, z away from the camera, so the nose of an unturned
head points to -z; the origin lies between the ears at eye level. Angles are in radians. Yaw > 0 turns the nose to the
image's right, pitch > 0 lifts the nose, roll > 0 tips the top of the head to the image's right. The rotation is
Rz(roll) Rx(pitch) Ry(yaw).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
DEFAULT_DISTANCE = 900.0
"""Camera to head centre in millimetres."""


def rotation(angles: Sequence[float]) -> Points:
    """Rotation matrix (3, 3) of yaw, pitch, roll.

    >>> nose = rotation((np.pi / 2, 0.0, 0.0)) @ [0.0, 0.0, -1.0]
    >>> [round(float(v), 6) + 0.0 for v in nose]
    [1.0, 0.0, 0.0]
    """
    yaw, pitch, roll = angles
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    return np.array(
        [
            [cr * cy - sr * sp * sy, -sr * cp, -cr * sy - sr * sp * cy],
            [sr * cy + cr * sp * sy, cr * cp, -sr * sy + cr * sp * cy],
            [cp * sy, -sp, cp * cy],
        ]
    )


def angles_of(matrix: NDArray[Any]) -> tuple[float, float, float]:
    """Yaw, pitch, roll of a rotation matrix; the inverse of `rotation` for |pitch| < 90 degrees."""
    pitch = float(np.arcsin(np.clip(-matrix[2, 1], -1.0, 1.0)))
    return float(np.arctan2(matrix[2, 0], matrix[2, 2])), pitch, float(np.arctan2(-matrix[0, 1], matrix[1, 1]))


def rotate(points: NDArray[Any], matrix: Points) -> Points:
    """Rotate points (..., 3), summed in a fixed order so that every machine load gives the same bits."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    return np.stack([x * row[0] + y * row[1] + z * row[2] for row in matrix], axis=-1)


def perspective(turned: NDArray[Any], distance: float = DEFAULT_DISTANCE) -> Points:
    """Rotated points (..., 3) -> millimetres (..., 2) in the plane through the head centre."""
    if np.isinf(distance):
        return np.asarray(turned[..., :2])
    return np.asarray(turned[..., :2] * (distance / (distance + turned[..., 2:])))


def project(
    points: NDArray[Any],
    angles: Sequence[float] = (0.0, 0.0, 0.0),
    scale: float = 1.0,
    centre: tuple[float, float] = (0.0, 0.0),
    distance: float = DEFAULT_DISTANCE,
) -> Points:
    """Turn 3-D points (..., 3) and project them: pixels (..., 2), `scale` pixels per millimetre at the head centre.

    `centre` is the pixel of the head's origin; an infinite `distance` gives parallel projection.

    >>> project(np.array([[10.0, 20.0, 0.0]]), scale=0.5, centre=(80.0, 80.0)).tolist()
    [[85.0, 90.0]]
    """
    turned = rotate(np.asarray(points, dtype=np.float64), rotation(angles))
    return np.asarray(perspective(turned, distance) * scale + np.asarray(centre))
