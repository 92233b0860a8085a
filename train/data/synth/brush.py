"""Drawing tools of the painter: smooth curves, polygons with sub-texel edges, soft shadows."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.images import Image
from train.data.synth import figure as fig

Array = NDArray[np.float64]
Float = NDArray[np.float32]
Colour = tuple[float, float, float]

_SHIFT = 4
_ORIGIN = np.array([fig.LEFT, fig.TOP])


@lru_cache(maxsize=16)
def _spline(count: int, closed: bool, steps: int) -> Array:
    """Weights (M, count) of a Catmull-Rom curve through `count` points."""
    spans = count if closed else count - 1
    weights = np.zeros((spans * steps + (0 if closed else 1), count))
    for row in range(len(weights)):
        span = min(row // steps, spans - 1)
        t = row / steps - span
        before, here = -0.5 * t + t**2 - 0.5 * t**3, 1 - 2.5 * t**2 + 1.5 * t**3
        after, beyond = 0.5 * t + 2 * t**2 - 1.5 * t**3, -0.5 * t**2 + 0.5 * t**3
        for k, value in enumerate((before, here, after, beyond)):
            index = span + k - 1
            weights[row, index % count if closed else min(max(index, 0), count - 1)] += value
    return weights


def curve(points: Array, closed: bool = False, steps: int = 4) -> Array:
    """A smooth line through points (N, 2)."""
    return np.asarray(np.einsum("mn,nd->md", _spline(len(points), closed, steps), points))


def fixed(points: Array) -> NDArray[np.int32]:
    """Coordinates with four binary places, as the drawing functions take them."""
    return np.rint(points * (1 << _SHIFT)).astype(np.int32)


@lru_cache(maxsize=1)
def _circle() -> Array:
    t = np.arange(16) * (2 * np.pi / 16)
    return np.stack([np.cos(t), np.sin(t)], -1)


def place(uv: Array) -> Array:
    """Atlas texels of places (u, v)."""
    return np.asarray(uv - _ORIGIN)


def shifted(points: Array, dx: float, dy: float) -> Array:
    """Points moved by (dx, dy)."""
    return np.asarray(points + np.array((dx, dy)))


def disc(x: float, y: float, rx: float, ry: float) -> Array:
    """An ellipse as a polygon."""
    return _circle() * (rx, ry) + (x, y)


def times(colour: Colour, factor: float) -> Colour:
    """A colour, brighter or darker."""
    b, g, r = colour
    return min(255.0, b * factor), min(255.0, g * factor), min(255.0, r * factor)


def mixed(first: Colour, second: Colour, of_first: float, of_second: float) -> Colour:
    """A weighted sum of two colours."""
    b, g, r = (of_first * f + of_second * s for f, s in zip(first, second, strict=True))
    return b, g, r


def fill(pixels: Image, points: Array, colour: Colour) -> None:
    """A polygon with smooth edges."""
    cv2.fillPoly(pixels, [fixed(points)], colour, cv2.LINE_AA, _SHIFT)


def lay(pixels: Image, points: Array, colour: Colour, alpha: float, soft: int) -> None:
    """A polygon with edges blurred over `soft` texels, mixed in with strength `alpha`."""
    margin = 2.0 + 2 * soft
    height, width = pixels.shape[:2]
    x0, y0 = (max(0, int(v)) for v in points.min(axis=0) - margin)
    x1, y1 = (int(v) + 2 for v in points.max(axis=0) + margin)
    x1, y1 = min(width, x1), min(height, y1)
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    cv2.fillPoly(mask, [fixed(points - (x0, y0))], 255, cv2.LINE_8, _SHIFT)
    weight = cv2.blur(cv2.blur(mask, (soft, soft)), (soft, soft)).astype(np.float32) * np.float32(alpha / 255)
    part = np.ascontiguousarray(pixels[y0:y1, x0:x1])
    coat = np.empty_like(part)
    coat[:] = colour
    pixels[y0:y1, x0:x1] = cv2.blendLinear(coat, part, weight, 1 - weight)


class Shadows:
    """A picture of dimming at half the atlas size; coordinates are atlas texels."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.pixels = np.full(shape, 255, np.uint8)

    def stroke(self, points: Array, light: float, width: int) -> None:
        """A line that lets only `light` (0..1) through."""
        cv2.polylines(
            self.pixels, [np.rint(points * 8 - 4).astype(np.int32)], False, 255 * light, width, cv2.LINE_8, _SHIFT
        )

    def fill(self, points: Array, light: float) -> None:
        cv2.fillPoly(self.pixels, [np.rint(points * 8 - 4).astype(np.int32)], 255 * light, cv2.LINE_8, _SHIFT)

    def finish(self, base: Float) -> Float:
        """Softened and multiplied into `base`."""
        soft = cv2.GaussianBlur(self.pixels, (5, 5), 1.1)
        return np.asarray(cv2.multiply(base, soft, scale=1 / 255, dtype=cv2.CV_32F), np.float32)
