"""From the sheet of vertices to pixels: paint quads back to front, then look every pixel's place in the atlas up.

A quad is painted with its number; an affine map per quad then turns pixels into atlas texels. So colours come from one
smooth lookup, and only the choice of the quad is made per polygon.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from train.data.synth.figure import ATLAS_PLACES, BIAS, EAR_QUADS, HAIR_QUADS, REAL

Array = NDArray[np.float64]
Float = NDArray[np.float32]

_SHIFT = 4
_SMALLEST = 0.04
"""Quads of less area (square pixels) are seen edge-on and left out."""

_A, _B, _C, _D = ATLAS_PLACES[:-1, :-1], ATLAS_PLACES[:-1, 1:], ATLAS_PLACES[1:, 1:], ATLAS_PLACES[1:, :-1]
_ALONG = ((_B + _C - _A - _D) * 0.5).reshape(-1, 2)
_DOWN = ((_C + _D - _A - _B) * 0.5).reshape(-1, 2)
_MIDDLE = ((_A + _B + _C + _D) * 0.25).reshape(-1, 2)


@dataclass(frozen=True)
class Lookup:
    """Where every pixel of a window of the photo finds its colour in the atlas."""

    x0: int
    y0: int
    covered: NDArray[np.bool_]
    x: Float
    y: Float


def rasterise(turned: Array, screen: Array, size: int, hanging_hair: bool) -> Lookup:
    """Paint the turned sheet, projected to `screen` pixels, into a size x size photo."""
    quads = np.stack([screen[:-1, :-1], screen[:-1, 1:], screen[1:, 1:], screen[1:, :-1]], axis=2).reshape(-1, 4, 2)
    z = turned[..., 2]
    depth = (z[:-1, :-1] + z[:-1, 1:] + z[1:, 1:] + z[1:, :-1]).ravel() * 0.25 - BIAS
    first = quads[:, 2] - quads[:, 0]
    second = quads[:, 1] - quads[:, 3]
    p, q = (first + second) * 0.5, (first - second) * 0.5
    det = p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]
    low, high = quads.min(axis=1), quads.max(axis=1)
    seen = (det > _SMALLEST) | (EAR_QUADS & (det < -_SMALLEST))
    if hanging_hair:
        seen |= HAIR_QUADS & (det < -_SMALLEST)
    seen &= REAL & (high[:, 0] > -1) & (high[:, 1] > -1) & (low[:, 0] < size) & (low[:, 1] < size)
    chosen = np.flatnonzero(seen)
    chosen = chosen[np.argsort(-depth[chosen], kind="stable")]
    x0, y0 = (max(0, int(np.floor(v))) for v in low[chosen].min(axis=0))
    x1, y1 = (min(size, int(np.ceil(v)) + 1) for v in high[chosen].max(axis=0))
    fixed = np.rint((quads[chosen] - (x0, y0)) * (1 << _SHIFT)).astype(np.int32)
    numbers = np.zeros((y1 - y0, x1 - x0), np.int32)
    fill = cv2.fillConvexPoly
    for number, polygon in enumerate(fixed, start=1):
        fill(numbers, polygon, number, cv2.LINE_8, _SHIFT)
    rows = np.zeros((len(chosen) + 1, 6), np.float32)
    rows[1:] = _affine(p[chosen], q[chosen], det[chosen], quads[chosen].mean(axis=1) - (x0, y0), chosen)
    values = np.take(rows, numbers, axis=0)
    xs = np.arange(x1 - x0, dtype=np.float32)[None, :]
    ys = np.arange(y1 - y0, dtype=np.float32)[:, None]
    x = values[..., 0] * xs + values[..., 1] * ys + values[..., 2]
    y = values[..., 3] * xs + values[..., 4] * ys + values[..., 5]
    return Lookup(x0, y0, numbers > 0, x, y)


def _affine(p: Array, q: Array, det: Array, centre: Array, chosen: NDArray[np.intp]) -> Array:
    """Per quad: atlas x and y as linear functions of the pixel."""
    along = np.stack([q[:, 1], -q[:, 0]], -1) / det[:, None]
    down = np.stack([-p[:, 1], p[:, 0]], -1) / det[:, None]
    along /= np.maximum(np.abs(along).max(-1, keepdims=True), 1.0)
    down /= np.maximum(np.abs(down).max(-1, keepdims=True), 1.0)
    step_p, step_q, middle = _ALONG[chosen], _DOWN[chosen], _MIDDLE[chosen]
    result = np.empty((len(chosen), 6))
    for k in (0, 1):
        gradient = step_p[:, k, None] * along + step_q[:, k, None] * down
        result[:, 3 * k : 3 * k + 2] = gradient
        result[:, 3 * k + 2] = middle[:, k] - gradient[:, 0] * centre[:, 0] - gradient[:, 1] * centre[:, 1]
    return result
