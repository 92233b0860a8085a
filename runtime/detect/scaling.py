"""Pictures made to fit a detector: shrunk, never enlarged unless asked, padded at right and bottom."""

from __future__ import annotations

import numpy as np

from runtime.geometry import Box
from runtime.images import Image
from runtime.lazy import require


def shrink(image: Image, longest: int) -> tuple[Image, float]:
    """The picture with its longer side at most `longest`, and the factor it was scaled by."""
    height, width = image.shape[:2]
    scale = min(1.0, longest / max(height, width))
    if scale == 1.0:
        return image, scale
    cv2 = require("cv2", "face detection")
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA)), scale


def pad(image: Image, width: int, height: int) -> Image:
    """The picture at the top left of a black canvas."""
    if image.shape[:2] == (height, width):
        return image
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas


def unscale(value: float, scale: float) -> float:
    """A coordinate of the scaled picture in the photo; pixel centres are integers in both."""
    return (value + 0.5) / scale - 0.5


def box_in_photo(x0: float, y0: float, x1: float, y1: float, scale: float) -> Box | None:
    """A detector's box in photo pixels; None when it has no area."""
    edges = [unscale(value, scale) for value in (x0, y0, x1, y1)]
    if not all(np.isfinite(edges)) or edges[2] - edges[0] < 1 or edges[3] - edges[1] < 1:
        return None
    return Box(edges[0], edges[1], edges[2], edges[3])


def without_overlaps(boxes: np.ndarray, scores: np.ndarray, limit: float) -> list[int]:
    """Indices to keep, best first: of boxes (N, 4) that overlap by more than `limit` only the best stays."""
    order = np.argsort(-scores, kind="stable")
    areas = (boxes[:, 2] - boxes[:, 0]).clip(0) * (boxes[:, 3] - boxes[:, 1]).clip(0)
    kept: list[int] = []
    while len(order):
        best, rest = int(order[0]), order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = (high - low).clip(0).prod(axis=1)
        union = areas[best] + areas[rest] - shared
        order = rest[shared <= limit * np.maximum(union, 1e-9)]
    return kept
