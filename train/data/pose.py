"""Head pose from landmarks alone, by fitting the mean face: for statistics, and to train an auxiliary net."""

from __future__ import annotations

from math import radians
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.layouts import Layout
from runtime.meanface import MEAN_FACE
from runtime.pose import head_pose

Angles = tuple[float, float, float]


def can_estimate(layout: Layout) -> bool:
    """Whether the mean face knows the points of a layout."""
    return layout.name in MEAN_FACE


def estimate_pose(points: NDArray[Any], layout: Layout) -> Angles | None:
    """Yaw, pitch, roll in radians (see `train.data.synth.camera`), or None when too few points are known."""
    pose = head_pose(np.asarray(points), layout.name)
    return (radians(pose.yaw), radians(pose.pitch), radians(pose.roll)) if pose else None
