"""The hot path around the network: all faces of a picture cut into one batch, and all outputs mapped back at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.geometry import Region
from runtime.images import Image
from runtime.spec import ModelSpec

_LARGEST_SIDE = 30_000
"""OpenCV's warp takes sides below 32768."""


def cut(image: Image, regions: Sequence[Region], spec: ModelSpec) -> NDArray[np.uint8]:
    """(N, S, S, 3): the regions of a photo as the network sees them, the same pixels as `geometry.warp` gives."""
    size = spec.input_size
    crops = np.empty((len(regions), size, size, 3), dtype=np.uint8)
    if not regions:
        return crops
    if not has_opencv():
        return _cut_by_numpy(image, regions, spec, crops)
    import cv2

    grey = spec.crop.padding
    border = (grey, grey, grey)
    wide = max(image.shape[:2]) > _LARGEST_SIDE
    for place, region in enumerate(regions):
        photo, matrix = _window(image, region, size) if wide else (image, region.to_crop(size))
        cv2.warpAffine(photo, matrix, (size, size), crops[place], cv2.INTER_LINEAR, cv2.BORDER_CONSTANT, border)
    return crops


def has_opencv() -> bool:
    """Whether OpenCV can be imported here."""
    try:
        import cv2  # noqa: F401
    except ImportError:
        return False
    return True


def _window(image: Image, region: Region, size: int) -> tuple[Image, NDArray[np.float64]]:
    """The part of a huge photo that a region can touch, and the map from that part."""
    reach = region.side * 0.75 + 2
    height, width = image.shape[:2]
    left, right = (int(np.clip(region.cx + step, 0, width - 1)) for step in (-reach, reach))
    top, bottom = (int(np.clip(region.cy + step, 0, height - 1)) for step in (-reach, reach))
    part = image[top : bottom + 1, left : right + 1]
    if max(part.shape[:2]) > _LARGEST_SIDE:
        step = -(-max(part.shape[:2]) // _LARGEST_SIDE)
        part = np.ascontiguousarray(part[::step, ::step])
        moved = Region((region.cx - left) / step, (region.cy - top) / step, region.side / step, region.angle)
        return part, moved.to_crop(size)
    return part, Region(region.cx - left, region.cy - top, region.side, region.angle).to_crop(size)


def _cut_by_numpy(
    image: Image, regions: Sequence[Region], spec: ModelSpec, crops: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The same crops without OpenCV, exact bilinear weights: at most one grey level away from OpenCV's."""
    size = spec.input_size
    height, width = image.shape[:2]
    across = (np.arange(size) - (size - 1) / 2) / size
    for place, region in enumerate(regions):
        cos, sin = np.cos(region.angle) * region.side, np.sin(region.angle) * region.side
        x = region.cx + cos * across[None, :] - sin * across[:, None]
        y = region.cy + sin * across[None, :] + cos * across[:, None]
        low_x, low_y = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
        part_x, part_y = x - low_x, y - low_y
        total = np.zeros((size, size, 3))
        for step_y, weight_y in ((0, 1 - part_y), (1, part_y)):
            for step_x, weight_x in ((0, 1 - part_x), (1, part_x)):
                at_x, at_y = low_x + step_x, low_y + step_y
                inside = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
                values = image[at_y.clip(0, height - 1), at_x.clip(0, width - 1)].astype(np.float64)
                values[~inside] = spec.crop.padding
                total += values * (weight_x * weight_y)[..., None]
        crops[place] = np.rint(total)
    return crops


def map_back(outputs: NDArray[np.float32], regions: Sequence[Region], spec: ModelSpec) -> NDArray[np.float32]:
    """Outputs (N, points, 2) in [0, 1] of their crops -> image pixels; `geometry.output_to_points` for all at once."""
    if not regions:
        return np.zeros((0, spec.points, 2), dtype=np.float32)
    half = 0.0 if spec.coordinates == "centre" else -0.5
    if len(regions) == 1 and not regions[0].angle:
        (only,) = regions
        corner = (only.cx - half - only.side / 2, only.cy - half - only.side / 2)
        return np.asarray(outputs * np.float64(only.side) + corner, dtype=np.float32)
    centred = np.asarray(outputs, dtype=np.float64) - 0.5
    centres = np.array([(r.cx - half, r.cy - half) for r in regions])[:, None]
    sides = np.array([r.side for r in regions])[:, None, None]
    if not any(r.angle for r in regions):
        return np.asarray(centred * sides + centres, dtype=np.float32)
    angles = np.array([r.angle for r in regions])
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    x, y = centred[..., 0] * cos - centred[..., 1] * sin, centred[..., 0] * sin + centred[..., 1] * cos
    return np.asarray(np.stack([x, y], axis=-1) * sides + centres, dtype=np.float32)
