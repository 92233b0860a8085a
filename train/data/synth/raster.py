"""From the sheet of vertices to pixels: paint quads back to front, then look every pixel's place in the atlas up.

A quad is painted with its number; an affine map per quad then turns pixels into atlas texels. So colours come from one
smooth lookup, and only the choice of the quad is made per polygon.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from train.data.synth.figure import ATLAS_PLACES, Quads

Array = NDArray[np.float64]
Float = NDArray[np.float32]

_SHIFT = 4
_HIDDEN_EAR = 0.35
_SMALLEST = 0.8
"""Quads of less area (square pixels) are seen edge-on and left out."""


def _corners(grid: Float) -> tuple[Float, Float, Float, Float]:
    """The corners of all quads of a grid (R, C, ...), clockwise, each (quads, ...)."""
    tail = grid.shape[2:]
    parts = (grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1])
    a, b, c, d = (part.reshape(-1, *tail) for part in parts)
    return a, b, c, d


def _axes(grid: Float) -> tuple[Float, Float, Float]:
    """Mean step along the columns, mean step down the rows, and centre of all quads."""
    a, b, c, d = _corners(grid)
    first, second, half = c - a, b - d, np.float32(0.5)
    return (first + second) * half, (first - second) * half, (a + b + c + d) * np.float32(0.25)


_ALONG, _DOWN, _MIDDLE = (np.ascontiguousarray(axis.T) for axis in _axes(ATLAS_PLACES.astype(np.float32)))


def _vertices() -> NDArray[np.intp]:
    """The four vertices of every quad of the sheet, clockwise."""
    row, column = np.mgrid[: ATLAS_PLACES.shape[0] - 1, : ATLAS_PLACES.shape[1] - 1]
    first = (row * ATLAS_PLACES.shape[1] + column).ravel()
    return np.stack([first, first + 1, first + 1 + ATLAS_PLACES.shape[1], first + ATLAS_PLACES.shape[1]], axis=1)


_VERTICES = _vertices()


@dataclass(frozen=True)
class Lookup:
    """Where every pixel of a window of the photo finds its colour in the atlas."""

    x0: int
    y0: int
    covered: NDArray[np.uint8]
    """255 where something was painted, else 0."""
    x: Float
    y: Float


def rasterise(turned: Array, screen: Array, size: int, known: Quads, away: float) -> Lookup:
    """Paint the turned sheet, projected to `screen` pixels, into a size x size photo.

    `away` tells how far the right ear points away from the camera (-1..1); an ear that does is not painted.
    """
    grid = np.clip(screen, -4 * size, 5 * size).astype(np.float32)
    along, down, centre = _axes(grid)
    det = along[:, 0] * down[:, 1] - along[:, 1] * down[:, 0]
    margin = np.float32(size + 12)
    seen = np.where(known.two_sided, np.abs(det), det) > _SMALLEST
    seen &= known.real
    if abs(away) > _HIDDEN_EAR:
        seen &= ~(known.right_ear if away > 0 else known.left_ear)
    seen &= (centre[:, 1] < margin) & (centre[:, 1] > -12) & (centre[:, 0] > -12) & (centre[:, 0] < margin)
    chosen = np.flatnonzero(seen)
    far = np.take(turned[..., 2].astype(np.float32).ravel(), _VERTICES[chosen])
    depth = (far[:, 0] + far[:, 1] + far[:, 2] + far[:, 3]) * np.float32(0.25) - known.nearer[chosen]
    chosen = chosen[np.argsort(-depth, kind="stable")]
    fixed = np.rint(grid * (1 << _SHIFT)).astype(np.int32).reshape(-1, 2)
    polygons = np.take(fixed, _VERTICES[chosen], axis=0)
    left, right, top, bottom = (
        int(edge) >> _SHIFT for k in (0, 1) for edge in (polygons[..., k].min(), polygons[..., k].max())
    )
    x0, y0 = min(max(0, left), size - 1), min(max(0, top), size - 1)
    x1, y1 = max(x0 + 1, min(size, right + 2)), max(y0 + 1, min(size, bottom + 2))
    polygons -= np.array((x0 << _SHIFT, y0 << _SHIFT), np.int32)
    numbers = np.zeros((y1 - y0, x1 - x0), np.int32)
    fill = cv2.fillConvexPoly
    for number, polygon in enumerate(polygons, start=1):
        fill(numbers, polygon, number, 8, _SHIFT)
    tables = np.zeros((2, len(chosen) + 1, 4), np.float32)
    corner = np.array((x0, y0), np.float32)
    _affine(tables[:, 1:], along[chosen], down[chosen], det[chosen], centre[chosen] - corner, chosen)
    which = numbers.astype(np.intp)
    xs = np.arange(x1 - x0, dtype=np.float32)[None, :]
    ys = np.arange(y1 - y0, dtype=np.float32)[:, None]
    planes = []
    for table in tables:
        values = np.take(table, which, axis=0, mode="clip")
        plane = values[..., 0] * xs
        plane += values[..., 1] * ys
        plane += values[..., 2]
        planes.append(plane)
    return Lookup(x0, y0, (numbers > 0).view(np.uint8) * np.uint8(255), planes[0], planes[1])


def _affine(out: Float, p: Float, q: Float, det: Float, centre: Float, chosen: NDArray[np.intp]) -> None:
    """Atlas x and y of each quad as linear functions of the pixel, (2, quads, 4), at most one quad per pixel steep."""
    px, py, qx, qy, steep = p[:, 0], p[:, 1], q[:, 0], q[:, 1], np.abs(det)
    sign = np.copysign(np.float32(1), det)
    per_p = sign / np.maximum(np.maximum(np.abs(qx), np.abs(qy)), steep)
    per_q = sign / np.maximum(np.maximum(np.abs(px), np.abs(py)), steep)
    p_by_x, p_by_y, q_by_x, q_by_y = qy * per_p, -qx * per_p, -py * per_q, px * per_q
    x, y = centre[:, 0], centre[:, 1]
    for k in (0, 1):
        step_p, step_q = _ALONG[k][chosen], _DOWN[k][chosen]
        by_x = step_p * p_by_x + step_q * q_by_x
        by_y = step_p * p_by_y + step_q * q_by_y
        out[k, :, 0], out[k, :, 1] = by_x, by_y
        out[k, :, 2] = _MIDDLE[k][chosen] - by_x * x - by_y * y
