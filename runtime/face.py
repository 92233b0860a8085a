"""What the runtime tells about one face."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.geometry import Box, Region
from runtime.layouts import LAYOUTS, Layout, plain_layout
from runtime.pose import OPENINGS, Pose, head_pose

Points = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Face:
    """One face. Pose and openings are worked out when they are first asked for."""

    box: Box
    """What the detector (or the user, or the track) said; image pixels."""
    points: Points
    """(N, 2) float32, image pixels; pixel centres are integers."""
    crop_points: Points
    """(N, 2) float32, pixels of the crop that the network saw."""
    region: Region
    """The square of the image that was cut."""
    score: float
    """0..1: is this a face at all? Measured in docs/runtime.md; nan where no score was made."""
    detection: float | None = None
    """The detector's own score, where it has one."""
    track: int | None = None
    """The same number in every frame for the same face; None in single photos."""
    layout_name: str = "wflw98"

    @property
    def layout(self) -> Layout:
        return LAYOUTS.get(self.layout_name) or plain_layout(len(self.points))

    @cached_property
    def landmark_box(self) -> Box:
        """The tight box of the points."""
        return Box.around(self.points)

    @cached_property
    def pose(self) -> Pose | None:
        """Yaw, pitch and roll in degrees; None for layouts without a mean face."""
        return head_pose(self.points, self.layout_name)

    @cached_property
    def eye_opening(self) -> tuple[float, float] | None:
        """Of the eye at the image's left and of the other: mean lid gap over eye width."""
        table = OPENINGS.get(self.layout_name)
        return (table["left"].of(self.points), table["right"].of(self.points)) if table else None

    @cached_property
    def mouth_opening(self) -> float | None:
        """Mean gap of the inner lips over their width."""
        table = OPENINGS.get(self.layout_name)
        return table["mouth"].of(self.points) if table else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, rounded to what it is worth."""
        pose = self.pose
        return {
            "box": [round(v, 2) for v in (self.box.x0, self.box.y0, self.box.x1, self.box.y1)],
            "points": [[round(float(x), 2), round(float(y), 2)] for x, y in self.points],
            "score": _rounded(self.score),
            "detection": _rounded(self.detection),
            "track": self.track,
            "pose": {"yaw": round(pose.yaw, 1), "pitch": round(pose.pitch, 1), "roll": round(pose.roll, 1)}
            if pose
            else None,
            "eye_opening": [round(v, 3) for v in self.eye_opening] if self.eye_opening else None,
            "mouth_opening": _rounded(self.mouth_opening),
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(value, 4)
