"""Boxes, crops and the way back: one affine map between photo and network, used by training and device alike.

Pixel centres are integers: pixel i covers i-0.5 .. i+0.5. A crop is a square `Region` of the photo plane; the network
sees it resampled to `size` x `size`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, UsageError
from runtime.spec import CropRule, ModelSpec

Matrix = NDArray[np.float64]
"""A 2x3 affine map."""
FloatArray = NDArray[np.float32]

MAX_COORDINATE = 1e6


@dataclass(frozen=True)
class Box:
    """An upright box, edges in pixel-centre coordinates."""

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        edges = (self.x0, self.y0, self.x1, self.y1)
        if not all(np.isfinite(edges)) or max(map(abs, edges)) > MAX_COORDINATE:
            raise InputError(f"box {edges}: edges must be finite and below {MAX_COORDINATE:g}")
        if self.x1 <= self.x0 or self.y1 <= self.y0:
            raise InputError(f"box {edges}: expected x0 < x1 and y0 < y1")

    @staticmethod
    def around(points: NDArray[Any]) -> Box:
        """The tight box of (N, 2) points."""
        low, high = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
        return Box(float(low[0]), float(low[1]), float(high[0]), float(high[1]))

    @property
    def width(self) -> float:
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        return self.y1 - self.y0

    @property
    def centre(self) -> tuple[float, float]:
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    def expand(self, factor: float) -> Box:
        """Scale about the centre.

        >>> Box(0, 0, 10, 20).expand(2)
        Box(x0=-5.0, y0=-10.0, x1=15.0, y1=30.0)
        """
        (cx, cy), w, h = self.centre, self.width * factor / 2, self.height * factor / 2
        return Box(cx - w, cy - h, cx + w, cy + h)


@dataclass(frozen=True)
class Region:
    """A square of the photo plane: its centre, its side, and the angle (radians) it is turned by."""

    cx: float
    cy: float
    side: float
    angle: float = 0.0

    def to_crop(self, size: int) -> Matrix:
        """Map photo pixels to crop pixels.

        >>> Region(5.0, 5.0, 10.0).to_crop(10) @ [5.0, 5.0, 1.0]
        array([4.5, 4.5])
        """
        scale = size / self.side
        if not self.angle:
            middle = (size - 1) / 2
            return np.array([[scale, 0.0, middle - scale * self.cx], [0.0, scale, middle - scale * self.cy]])
        cos, sin = np.cos(self.angle) * scale, np.sin(self.angle) * scale
        middle = (size - 1) / 2
        return np.array(
            [
                [cos, sin, middle - cos * self.cx - sin * self.cy],
                [-sin, cos, middle + sin * self.cx - cos * self.cy],
            ]
        )


def crop_region(box: Box, rule: CropRule) -> Region:
    """The square that the crop rule cuts for a box."""
    if rule.rounding == "pixel":
        return _whole_pixel_region(box, rule)
    side = rule.scale * max(box.width, box.height)
    cx, cy = box.centre
    return Region(cx + rule.shift[0] * side, cy + rule.shift[1] * side, side)


def _whole_pixel_region(box: Box, rule: CropRule) -> Region:
    """Upstream's square: edges cut to integers, both edge pixels counted in, side and corner integers."""
    low = np.trunc([box.x0, box.y0])
    extent = np.trunc([box.x1, box.y1]) - low + 1
    side = np.trunc(rule.scale * extent.max())
    centre = np.trunc(low + extent / 2) + np.trunc(np.asarray(rule.shift) * side)
    corner = centre - side // 2
    middle = corner + (side - 1) / 2
    return Region(float(middle[0]), float(middle[1]), max(float(side), 1.0))


def invert(matrix: Matrix) -> Matrix:
    """Inverse of a 2x3 affine map."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.hstack([linear, -linear @ matrix[:, 2:]])


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """The affine map `outer(inner(p))`."""
    linear = outer[:, :2] @ inner[:, :2]
    return np.hstack([linear, outer[:, :2] @ inner[:, 2:] + outer[:, 2:]])


def transform(matrix: Matrix, points: NDArray[Any]) -> NDArray[np.float64]:
    """Apply an affine map to points of shape (..., 2)."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


def warp(image: NDArray[np.uint8], matrix: Matrix, size: int, padding: int = 0) -> NDArray[np.uint8]:
    """Resample a photo through an affine map into a `size` x `size` crop, bilinear, constant padding."""
    import cv2

    return np.asarray(
        cv2.warpAffine(
            image,
            matrix,
            (size, size),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(padding, padding, padding),
        ),
        dtype=np.uint8,
    )


def points_to_target(points: NDArray[Any], region: Region, spec: ModelSpec) -> NDArray[np.float64]:
    """Photo points -> what the network should put out, in [0, 1] of the crop."""
    shifted = points + _half_pixel(spec)
    size = spec.input_size
    return (transform(region.to_crop(size), shifted) + 0.5) / size


def output_to_points(output: NDArray[Any], region: Region, spec: ModelSpec) -> NDArray[np.float64]:
    """Network outputs (..., N, 2) in [0, 1] -> photo points; the inverse of `points_to_target`."""
    size = spec.input_size
    crop_pixels = np.asarray(output, dtype=np.float64) * size - 0.5
    return transform(invert(region.to_crop(size)), crop_pixels) - _half_pixel(spec)


def _half_pixel(spec: ModelSpec) -> float:
    """Files of the "corner" convention count from the edge of the crop's first photo pixel as if it were its centre."""
    return 0.0 if spec.coordinates == "centre" else -0.5


def network_input(crops: NDArray[np.uint8], spec: ModelSpec) -> FloatArray:
    """BGR crops (B, S, S, 3) uint8 -> normalised float32 (B, 3, S, S), C-contiguous."""
    if crops.ndim != 4 or crops.shape[1:] != (spec.input_size, spec.input_size, 3) or crops.dtype != np.uint8:
        wanted = f"(B, {spec.input_size}, {spec.input_size}, 3) uint8"
        raise UsageError(f"network input: expected {wanted}, found {crops.shape} {crops.dtype}")
    ordered = crops if spec.channels == "bgr" else crops[..., ::-1]
    mean = np.asarray(spec.mean, dtype=np.float32)
    std = np.asarray(spec.std, dtype=np.float32)
    scale = np.float32(1 / 255) / std
    values = ordered.astype(np.float32) * scale - mean / std
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))
