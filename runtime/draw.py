"""Faces drawn into a picture: boxes, points, lines of the layout, ids, head axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.face import Face
from runtime.images import Image
from runtime.lazy import require

Colour = tuple[int, int, int]
COLOURS: tuple[Colour, ...] = (
    (96, 220, 60),
    (60, 160, 255),
    (255, 170, 50),
    (230, 80, 200),
    (80, 230, 230),
    (90, 90, 255),
)
"""BGR; a track keeps its colour."""
_SUB = 4
"""Fractional bits of OpenCV's drawing coordinates."""


def draw_faces(image: Image, faces: Sequence[Face], *, boxes: bool = True, labels: bool = True) -> Image:
    """A copy of the picture with the faces drawn; line widths follow the size of each face."""
    cv2 = require("cv2", "drawing")
    canvas = np.ascontiguousarray(image).copy()
    for place, face in enumerate(faces):
        colour = COLOURS[(place if face.track is None else face.track) % len(COLOURS)]
        side = face.region.side
        thick = max(1, round(side / 250))
        if boxes:
            corners = [_fixed(v) for v in ((face.box.x0, face.box.y0), (face.box.x1, face.box.y1))]
            cv2.rectangle(canvas, *corners, colour, thick, cv2.LINE_AA, _SUB)
        if side > 60:
            for line in face.layout.lines:
                path = np.array([_fixed(face.points[point]) for point in line], dtype=np.int32)
                cv2.polylines(canvas, [path], False, colour, thick, cv2.LINE_AA, _SUB)
        radius = max(0.6, side / 220)
        for point in face.points:
            cv2.circle(canvas, _fixed(point), round(radius * (1 << _SUB)), (255, 255, 255), -1, cv2.LINE_AA, _SUB)
        text = _label(face)
        if labels and text:
            scale = min(1.2, max(0.35, side / 400))
            at = (round(face.box.x0), max(10, round(face.box.y0) - 4))
            cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), thick + 2, cv2.LINE_AA)
            cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thick, cv2.LINE_AA)
    return canvas


def _label(face: Face) -> str:
    parts = [] if face.track is None else [f"#{face.track}"]
    if np.isfinite(face.score):
        parts.append(f"{face.score:.2f}")
    return " ".join(parts)


def _fixed(point: Sequence[float] | np.ndarray) -> tuple[int, int]:
    return tuple(int(np.clip(round(float(v) * (1 << _SUB)), -(2**24), 2**24)) for v in point[:2])  # type: ignore[return-value]
