"""Drawing tools of the painter: smooth curves, ink coordinates, polygons, soft shadows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.images import Image
from train.data.synth import figure as fig

Array = NDArray[np.float64]
Float = NDArray[np.float32]
Ink = NDArray[np.int32]
"""Pixels with four binary places, as the drawing functions take them."""
Colour = tuple[float, float, float]

SHIFT = 4
_ORIGIN = np.array([fig.LEFT, fig.TOP])
_ROUND = np.arange(16) * (2 * np.pi / 16)
_CIRCLE = np.stack([np.cos(_ROUND), np.sin(_ROUND)], -1)


@dataclass(frozen=True)
class Curves:
    """Several Catmull-Rom curves through chosen points, evaluated together."""

    index: NDArray[np.intp]
    weight: Array
    parts: dict[str, slice]

    @staticmethod
    def through(wanted: dict[str, tuple[Sequence[int], bool, int]]) -> Curves:
        """Name -> (point numbers, closed, steps per span)."""
        index: list[list[int]] = []
        weight: list[list[float]] = []
        parts: dict[str, slice] = {}
        for name, (points, closed, steps) in wanted.items():
            start, count = len(index), len(points)
            spans = count if closed else count - 1
            for row in range(spans * steps + (0 if closed else 1)):
                span = min(row // steps, spans - 1)
                t = row / steps - span
                near = [span + k - 1 for k in range(4)]
                near = [k % count if closed else min(max(k, 0), count - 1) for k in near]
                index.append([points[k] for k in near])
                before, here = -0.5 * t + t**2 - 0.5 * t**3, 1 - 2.5 * t**2 + 1.5 * t**3
                weight.append([before, here, 0.5 * t + 2 * t**2 - 1.5 * t**3, -0.5 * t**2 + 0.5 * t**3])
            parts[name] = slice(start, len(index))
        return Curves(np.array(index), np.array(weight)[..., None], parts)

    def draw(self, points: Array) -> dict[str, Ink]:
        """All curves through the given places (N, 2) of the face plane."""
        near = points[self.index] * self.weight
        line = ink(near[:, 0] + near[:, 1] + near[:, 2] + near[:, 3])
        return {name: line[part] for name, part in self.parts.items()}


def ink(uv: Array) -> Ink:
    """Atlas ink of places (u, v)."""
    return fixed(uv - _ORIGIN)


def mirrored(uv: Sequence[Sequence[float]]) -> list[Ink]:
    """A static shape of the face plane and its mirror image."""
    return [ink(np.array(uv, np.float64) * (side, 1.0)) for side in (1.0, -1.0)]


def fixed(points: Array) -> Ink:
    """Pixels as ink."""
    return np.rint(points * (1 << SHIFT)).astype(np.int32)


def disc(x: float, y: float, rx: float, ry: float) -> Array:
    """An ellipse as a polygon."""
    return np.asarray(_CIRCLE * (rx, ry) + (x, y))


def times(colour: Colour, factor: float) -> Colour:
    """A colour, brighter or darker."""
    b, g, r = colour
    return min(255.0, b * factor), min(255.0, g * factor), min(255.0, r * factor)


def mixed(first: Colour, second: Colour, of_first: float, of_second: float) -> Colour:
    """A weighted sum of two colours."""
    b, g, r = (of_first * f + of_second * s for f, s in zip(first, second, strict=True))
    return b, g, r


def lay(pixels: Image, line: Ink, colour: Colour, alpha: float, soft: int) -> None:
    """A polygon with edges blurred over `soft` texels, mixed in with strength `alpha`."""
    margin = 2 + 2 * soft
    height, width = pixels.shape[:2]
    x0, y0 = (max(0, int(v) - margin) for v in line.min(axis=0) >> SHIFT)
    x1, y1 = (int(v) + 2 + margin for v in line.max(axis=0) >> SHIFT)
    x1, y1 = min(width, x1), min(height, y1)
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    cv2.fillPoly(mask, [line - np.array((x0 << SHIFT, y0 << SHIFT), np.int32)], 255, cv2.LINE_8, SHIFT)
    weight = cv2.blur(cv2.blur(mask, (soft, soft)), (soft, soft)).astype(np.float32) * np.float32(alpha / 255)
    part = np.ascontiguousarray(pixels[y0:y1, x0:x1])
    coat = np.empty_like(part)
    coat[:] = colour
    pixels[y0:y1, x0:x1] = cv2.blendLinear(coat, part, weight, 1 - weight)


class Shadows:
    """A picture of dimming at half the atlas size; coordinates are atlas ink."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.pixels = np.full(shape, 255, np.uint8)

    def stroke(self, lines: Sequence[Ink], light: float, width: int = 1) -> None:
        """Lines that let only `light` (0..1) through."""
        half = [(line >> 1) - 4 for line in lines]
        cv2.polylines(self.pixels, half, False, 255 * light, width, cv2.LINE_8, SHIFT)

    def fill(self, lines: Sequence[Ink], light: float) -> None:
        """Polygons that let only `light` (0..1) through."""
        cv2.fillPoly(self.pixels, [(line >> 1) - 4 for line in lines], 255 * light, cv2.LINE_8, SHIFT)

    def finish(self, base: Float) -> Float:
        """Softened and multiplied into `base`."""
        soft = cv2.GaussianBlur(self.pixels, (5, 5), 1.1)
        return np.asarray(cv2.multiply(base, soft, scale=1 / 255, dtype=cv2.CV_32F), np.float32)
