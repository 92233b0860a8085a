"""The painted skin: one picture in the face's own (u, v) plane, and beside it swatches for hair, ears, neck and bare skin."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from train.data.synth.head import COLUMNS, ROWS
from train.data.synth.marks import Features
from train.data.synth.params import FaceParams

Array = NDArray[np.float64]
Float = NDArray[np.float32]
Colour = tuple[float, float, float]

LEFT, TOP = float(COLUMNS[0]), float(ROWS[0])
FACE_WIDTH, FACE_HEIGHT = int(COLUMNS[-1] - LEFT) + 1, int(ROWS[-1] - TOP) + 1
HAIR_AT, HAIR_WIDTH = FACE_WIDTH + 3, 120
EAR_AT, EAR_WIDTH, EAR_HEIGHT = HAIR_AT + HAIR_WIDTH + 3, 40, 70
SKIN_AT, SKIN_TOP, SKIN_SIDE = EAR_AT, EAR_HEIGHT + 6, 40
WIDTH, HEIGHT = EAR_AT + EAR_WIDTH + 2, FACE_HEIGHT
_SUB = 4


def place(uv: Array) -> Array:
    """Atlas pixels of places (u, v)."""
    return uv - np.array([LEFT, TOP])


@lru_cache(maxsize=8)
def _spline(count: int, closed: bool, steps: int) -> Array:
    """Weights (M, count) of a Catmull-Rom curve through `count` points."""
    spans = count if closed else count - 1
    weights = np.zeros((spans * steps + (0 if closed else 1), count))
    for row in range(len(weights)):
        span, t = min(row // steps, spans - 1), row / steps - min(row // steps, spans - 1)
        w = (
            -0.5 * t + t**2 - 0.5 * t**3,
            1 - 2.5 * t**2 + 1.5 * t**3,
            0.5 * t + 2 * t**2 - 1.5 * t**3,
            -0.5 * t**2 + 0.5 * t**3,
        )
        for k, value in enumerate(w):
            index = span + k - 1
            weights[row, index % count if closed else min(max(index, 0), count - 1)] += value
    return weights


def curve(points: Array, closed: bool = False, steps: int = 4) -> Array:
    """A smooth line through points (N, 2)."""
    weights = _spline(len(points), closed, steps)
    return np.einsum("mn,nd->md", weights, points)


@lru_cache(maxsize=1)
def _grain() -> tuple[Float, Float, Float]:
    """Skin grain, blotches and hair strands, the same for all faces; each face looks at another part."""
    rng = np.random.Generator(np.random.PCG64(7))
    fine = rng.standard_normal((HEIGHT + 64, WIDTH + 64)).astype(np.float32)
    skin = cv2.GaussianBlur(fine, (0, 0), 0.9)
    skin /= skin.std()
    blotch = cv2.resize(
        rng.standard_normal((26, 38)).astype(np.float32), (WIDTH + 64, HEIGHT + 64), interpolation=cv2.INTER_CUBIC
    )
    strands = cv2.blur(rng.standard_normal((HEIGHT + 64, 260)).astype(np.float32), (1, 45))
    strands += 0.7 * cv2.blur(rng.standard_normal((HEIGHT + 64, 260)).astype(np.float32), (5, 81)) * 2.2
    strands /= strands.std()
    return skin, blotch, strands


@lru_cache(maxsize=1)
def _relief() -> tuple[Float, Float, Float]:
    """Static maps of the face plane: dimmed hollows, flushed skin, where a beard grows."""
    u, v = np.meshgrid(np.arange(FACE_WIDTH) + LEFT, np.arange(FACE_HEIGHT) + TOP)
    a = np.abs(u)

    def spot(u0: float, v0: float, su: float, sv: float) -> Array:
        return np.asarray(np.exp(-0.5 * (((a - u0) / su) ** 2 + ((v - v0) / sv) ** 2)))

    dim = (
        0.20 * spot(19, -3, 7, 9) + 0.12 * spot(31, 10, 12, 4) + 0.14 * spot(32, -9, 13, 3.5)
        + 0.16 * spot(17, 36, 2.6, 8) + 0.26 * spot(7, 46, 7, 2.2) + 0.13 * spot(0, 52, 3, 4)
        + 0.22 * spot(0, 83, 13, 3.5) + 0.10 * spot(33, 66, 5, 9) + 0.18 * spot(0, 128, 60, 9)
        + 0.10 * spot(14, 20, 3, 12)
    )  # fmt: skip
    dim += 0.42 * np.clip((v - 112) / 16, 0, 1) + 0.25 * np.clip((a - 108) / 30, 0, 1) * np.clip((v - 40) / 50, 0, 1)
    flush = 1.0 * spot(42, 33, 15, 13) + 0.9 * spot(0, 38, 12, 8) + 0.35 * spot(0, 104, 14, 9)
    jaw = 1 / (1 + np.exp(-(v - (48 + 0.0035 * (60 - np.minimum(a, 60)) ** 2 - 0.25 * np.maximum(a - 78, 0))) / 3.5))
    moustache = spot(0, 52, 24, 4.2) * 1.1
    grow = (
        np.clip(jaw * np.clip((128 - v) / 10, 0, 1) * np.clip((118 - a) / 10, 0, 1), 0, 1)
        - 0.9 * spot(0, 84, 9, 3) * 0.5
    )
    grow = np.where(v < 58, np.where(a < 27, 0.0, grow), grow)
    both = np.stack([np.clip(grow, 0, 1), np.clip(moustache, 0, 1)])
    return (
        (1 - np.clip(dim, 0, 0.8)).astype(np.float32),
        flush.astype(np.float32),
        cv2.GaussianBlur(both.transpose(1, 2, 0).astype(np.float32), (0, 0), 1.6),
    )


class Canvas:
    """Float BGR picture with soft polygons."""

    def __init__(self, pixels: Float) -> None:
        self.pixels = pixels

    def _window(self, points: Array, margin: float) -> tuple[int, int, int, int]:
        low, high = points.min(axis=0) - margin, points.max(axis=0) + margin + 1
        height, width = self.pixels.shape[:2]
        return max(0, int(low[0])), max(0, int(low[1])), min(width, int(high[0]) + 1), min(height, int(high[1]) + 1)

    def _lay(
        self, window: tuple[int, int, int, int], mask: NDArray[np.uint8], colour: Colour, alpha: float, soft: float
    ) -> None:
        if soft > 0:
            mask = cv2.GaussianBlur(mask, (0, 0), soft)
        x0, y0, x1, y1 = window
        part = self.pixels[y0:y1, x0:x1]
        weight = mask.astype(np.float32)[..., None] * np.float32(alpha / 255.0)
        part += (np.asarray(colour, np.float32) - part) * weight

    def fill(self, points: Array, colour: Colour, alpha: float = 1.0, soft: float = 0.0) -> None:
        """A filled polygon, blended in."""
        x0, y0, x1, y1 = window = self._window(points, 2.0 + 2.5 * soft)
        if x1 - x0 < 1 or y1 - y0 < 1:
            return
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        fixed = np.round((points - (x0, y0)) * (1 << _SUB)).astype(np.int32)
        cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, _SUB)
        self._lay(window, mask, colour, alpha, soft)

    def stroke(self, points: Array, colour: Colour, alpha: float, width: int = 1, soft: float = 0.0) -> None:
        """A line, blended in."""
        x0, y0, x1, y1 = window = self._window(points, 2.0 + width + 2.5 * soft)
        if x1 - x0 < 1 or y1 - y0 < 1:
            return
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        fixed = np.round((points - (x0, y0)) * (1 << _SUB)).astype(np.int32)
        cv2.polylines(mask, [fixed], False, 255, width, cv2.LINE_AA, _SUB)
        self._lay(window, mask, colour, alpha, soft)

    def within(self, points: Array) -> tuple[Canvas, Float, tuple[int, int, int, int]]:
        """A copy of the window around a polygon with the polygon's mask, for painting inside it only."""
        x0, y0, x1, y1 = window = self._window(points, 2.0)
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        fixed = np.round((points - (x0, y0)) * (1 << _SUB)).astype(np.int32)
        cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, _SUB)
        return Canvas(self.pixels[y0:y1, x0:x1].copy()), (mask.astype(np.float32) / 255.0)[..., None], window

    def put(self, inner: Canvas, mask: Float, window: tuple[int, int, int, int]) -> None:
        """Lay a painted copy back through its mask."""
        x0, y0, x1, y1 = window
        part = self.pixels[y0:y1, x0:x1]
        part += (inner.pixels - part) * mask


def _times(colour: Colour, factor: float, red: float = 0.0) -> Colour:
    b, g, r = (min(255.0, c * factor) for c in colour)
    return b, g * (1 - 0.5 * red), min(255.0, r * (1 + 0.1 * red))


def _disc(centre: Array, radius: float, count: int = 20) -> Array:
    t = np.arange(count) * (2 * np.pi / count)
    return centre + radius * np.stack([np.cos(t), np.sin(t)], -1)


def paint(params: FaceParams, features: Features, rng: np.random.Generator) -> Float:
    """The atlas of one face, float BGR (HEIGHT, WIDTH, 3)."""
    grain, blotch, strands = _grain()
    dim, flush, grow = _relief()
    ox, oy = (int(k) for k in rng.integers(0, 64, 2))
    tone = grain[oy : oy + HEIGHT, ox : ox + WIDTH] * np.float32(0.018 + 0.02 * params.age)
    tone += blotch[oy : oy + HEIGHT, ox : ox + WIDTH] * np.float32(0.02)
    tone += np.float32(1.0)
    face = np.s_[:, :FACE_WIDTH]
    tone[face] *= dim
    skin = np.asarray(params.skin, np.float32)
    pixels = tone[..., None] * skin
    red = flush * np.float32(0.10)
    pixels[:, :FACE_WIDTH, 0] *= 1 - red
    pixels[:, :FACE_WIDTH, 1] *= 1 - red
    canvas = Canvas(pixels)
    _wrinkles(canvas, params, features)
    if params.freckles > 0:
        _freckles(canvas, params, rng)
    _make_up(canvas, params, features)
    hair = np.asarray(params.hair, np.float32)
    if params.beard > 0.02 or params.moustache > 0.02:
        roots = np.clip(0.85 + 0.35 * strands[oy : oy + FACE_HEIGHT, :260][:, np.arange(FACE_WIDTH) % 260], 0.0, 1.3)
        weight = (
            (grow[..., 0] * np.float32(params.beard) + grow[..., 1] * np.float32(params.moustache))
            * roots
            * np.float32(0.85)
        )
        pixels[face] += (hair * 0.8 - pixels[face]) * np.clip(weight, 0, 0.95)[..., None]
    _nose(canvas, params, features)
    _brows(canvas, params, features, rng)
    for which in (0, 1):
        _eye(canvas, params, features, which)
    _mouth(canvas, params, features)
    _swatches(pixels, params, strands, int(rng.integers(0, 60)), rng)
    return pixels


def _wrinkles(canvas: Canvas, params: FaceParams, features: Features) -> None:
    dark = _times(params.skin, 0.62)
    strength = 0.12 + 0.5 * params.age**2
    for side in (-1.0, 1.0):
        fold = np.array([[17.0, 40.0], [25.0, 50.0], [31.0, 62.0], [33.0, 72.0]]) * (side, 1.0)
        fold[2:, 0] += side * 2.0 * params.smile
        canvas.stroke(place(curve(fold)), dark, min(0.7, strength * 0.7 + 0.45 * max(0.0, params.smile)), 2, 1.4)
    if params.age > 0.35 or max(params.brow_lift) > 4:
        for k in range(3):
            line = np.array(
                [[-34.0, -38.0 - 9 * k], [-14.0, -42.0 - 9 * k], [14.0, -42.0 - 9 * k], [34.0, -38.0 - 9 * k]]
            )
            canvas.stroke(place(curve(line)), dark, 0.35 * strength + 0.02 * max(0.0, *params.brow_lift), 1, 0.9)
    if params.brow_frown > 0.3:
        for side in (-1.0, 1.0):
            line = np.array([[5.0, -24.0], [4.0, -16.0], [4.6, -9.0]]) * (side, 1.0)
            canvas.stroke(place(curve(line)), dark, 0.4 * params.brow_frown, 1, 0.7)


def _freckles(canvas: Canvas, params: FaceParams, rng: np.random.Generator) -> None:
    spots = rng.normal(0, 1, (60, 2)) * (30, 12) + (0, 26)
    layer = np.zeros((FACE_HEIGHT, FACE_WIDTH), np.uint8)
    for x, y in np.round(place(spots) * 16).astype(int).tolist():
        cv2.circle(layer, (x, y), 12, 255, -1, cv2.LINE_AA, 4)
    part = canvas.pixels[60:150, :FACE_WIDTH]
    weight = layer[60:150].astype(np.float32)[..., None] * np.float32(0.32 * params.freckles / 255)
    part += (np.asarray(_times(params.skin, 0.6), np.float32) - part) * weight


def _make_up(canvas: Canvas, params: FaceParams, features: Features) -> None:
    if params.blush > 0:
        for side in (-1.0, 1.0):
            canvas.fill(
                place(np.array([44.0 * side, 30.0]) + _disc(np.zeros(2), 1.0) * (15.0, 9.0)),
                (120.0, 90.0, 225.0),
                0.75 * params.blush,
                6.0,
            )
    if params.eye_shadow > 0:
        for first, brow, order in ((60, 33, (38, 39, 40, 41)), (68, 42, (50, 49, 48, 47))):
            lid = features.line(first, first + 5)
            top = features.line(brow, brow + 9)[[k - brow for k in order]]
            upper = lid[::-1].copy()
            upper[1:-1, 1] += (top[:, 1].mean() - upper[1:-1, 1]) * 0.62
            upper[0, 1] -= 2.0
            upper[-1, 1] -= 2.0
            canvas.fill(place(np.concatenate([lid, upper])), params.eye_shadow_colour, 0.75 * params.eye_shadow, 1.5)


def _brows(canvas: Canvas, params: FaceParams, features: Features, rng: np.random.Generator) -> None:
    b, g, r = (0.8 * h + 0.06 * s for h, s in zip(params.hair, params.skin, strict=True))
    if sum(params.hair) > 330:
        b, g, r = b * 0.6, g * 0.6, r * 0.6
    colour = (b, g, r)
    for first in (33, 42):
        line = features.line(first, first + 9)
        outline = np.concatenate([curve(line[:5], steps=3), curve(line[5:], steps=3)])
        canvas.fill(place(outline), colour, 0.72, 0.7)
        top, low = line[:5], line[5:][::-1]
        if first == 42:
            top, low = line[:5][::-1], np.concatenate([line[5:]])
        spine_top = curve(top, steps=4)
        strokes = rng.uniform(-0.8, 0.8, (9, 2))
        for k in range(9):
            tip = spine_top[min(16, k * 2)] + strokes[k]
            root_index = min(3, max(0, (k * 2) // 4))
            root = low[root_index] * 0.6 + low[max(0, root_index - 1)] * 0.4 + strokes[8 - k]
            canvas.stroke(place(np.stack([tip, tip + (root - tip) * 0.75])), _times(colour, 0.7), 0.4)


def _eye(canvas: Canvas, params: FaceParams, features: Features, which: int) -> None:
    first = 60 if which == 0 else 68
    ring = features.line(first, first + 8)
    centre = place(features.line(96 + which, 97 + which)[0])
    outline = place(curve(ring, closed=True))
    side = -1.0 if which == 0 else 1.0
    dark = _times(params.skin, 0.42)
    lid = ring[:5] if which == 0 else ring[:5]
    top = place(curve(lid))
    low = place(curve(ring[[4, 5, 6, 7, 0]]))
    opening = params.eye_open[which]
    if opening > 0.1:
        inner, mask, window = canvas.within(outline)
        shade = 236.0 - 8 * params.age
        inner.pixels[:] = np.asarray((shade * 0.96, shade * 0.97, shade), np.float32)
        corner = np.array(window[:2], float)
        radius = features.iris_radius
        at = centre - corner
        inner.stroke(top - corner + (0.0, 0.6), (96.0, 100.0, 112.0), 0.55, 3, 1.0)
        inner.fill(_disc(at, radius), _times(params.iris, 0.55))
        inner.fill(_disc(at, radius * 0.84), params.iris, 1.0, 0.4)
        inner.fill(_disc(at + (0.0, radius * 0.35), radius * 0.5), _times(params.iris, 1.5), 0.5, 0.7)
        inner.fill(_disc(at, radius * 0.42, 14), (10.0, 10.0, 12.0))
        inner.stroke(top - corner + (0.0, 0.4), (30.0, 30.0, 36.0), 0.5, 2, 0.8)
        gleam = np.array([-np.sign(params.light[0] + 1e-9) * -1.6, -1.9])
        inner.fill(_disc(at + gleam, 1.25, 10), (250.0, 250.0, 250.0), 0.9)
        canvas.put(inner, mask, window)
    lash = (24.0 + 0.25 * params.skin[0] * 0.3, 24.0, 30.0)
    canvas.stroke(
        top - (0.0, 0.3),
        lash,
        min(1.0, 0.8 + 0.2 * params.liner),
        1 + int(params.liner > 0.35) + int(params.liner > 0.75),
        0.4,
    )
    canvas.stroke(low + (0.0, 0.3), dark if params.liner < 0.5 else lash, 0.45, 1, 0.5)
    crease = top + (0.0, -3.6 if opening > 0.3 else -6.0)
    canvas.stroke(crease[2:-1], dark, 0.45, 1, 0.7)
    canvas.stroke(low[2:-2] + (0.0, 5.0), dark, 0.10 + 0.35 * params.age, 1, 1.2)
    if which == 0 or which == 1:
        inner_corner = place(ring[4 if which == 0 else 0])
        canvas.fill(
            _disc(inner_corner + (side * 1.0, 0.2), 1.3, 8), (120.0, 120.0, 190.0), 0.6 if opening > 0.1 else 0.0, 0.4
        )


def _nose(canvas: Canvas, params: FaceParams, features: Features) -> None:
    dark = _times(params.skin, 0.30, 0.2)
    line = features.line(51, 60)
    for side, index in ((-1.0, 5), (1.0, 7)):
        hole = place(line[index] + (-side * 0.2, -2.0)) + _disc(np.zeros(2), 1.0, 14) * (4.0, 1.9)
        canvas.fill(hole, dark, 0.85, 0.7)
        wing = np.array([[14.2, 31.0], [17.6, 36.0], [17.0, 41.0], [13.5, 43.6]]) * (side, 1.0)
        canvas.stroke(place(curve(wing)), _times(params.skin, 0.55), 0.5, 1, 0.9)
    base = curve(line[4:9])
    canvas.stroke(place(base) + (0.0, 0.6), _times(params.skin, 0.5), 0.45, 1, 0.8)


def _mouth(canvas: Canvas, params: FaceParams, features: Features) -> None:
    outer, inside = features.line(76, 88), features.line(88, 96)
    b, g, r = params.skin
    natural = (b * 0.62, g * 0.58, min(255.0, r * 0.84))
    k = params.lipstick
    lips = tuple(n * (1 - k) + c * k for n, c in zip(natural, params.lipstick_colour, strict=True))
    colour: Colour = (lips[0], lips[1], lips[2])
    ring = place(curve(outer, closed=True, steps=3))
    canvas.fill(ring, colour, 0.92 if k else 0.80, 0.5)
    middle = place(outer[9]) - (0.0, 4.2 * params.lip_lower)
    canvas.fill(middle + _disc(np.zeros(2), 1.0, 12) * (8.0, 1.6), _times(colour, 1.35), 0.35 + 0.3 * k, 1.2)
    seam = place(curve(inside[:5]))
    hole = place(curve(inside, closed=True, steps=3))
    gap = float((inside[6, 1] - inside[2, 1]))
    if gap > 2.2:
        inner, mask, window = canvas.within(hole)
        corner = np.array(window[:2], float)
        inner.pixels[:] = np.asarray((22.0, 18.0, 46.0), np.float32)
        floor = place(inside[6]) - corner
        if gap > 7:
            inner.fill(
                floor + (0.0, -1.0) + _disc(np.zeros(2), 1.0) * (12.0, 0.38 * gap), (88.0, 80.0, 168.0), 0.85, 1.4
            )
        teeth = np.concatenate([seam - corner + (0, -1.0), (seam - corner)[::-1] + (0.0, min(6.5, 0.6 * gap))])
        inner.fill(teeth, (206.0, 222.0, 228.0), 0.95 if params.smile > 0.1 or gap > 8 else 0.5, 0.6)
        inner.stroke(seam - corner, (30.0, 24.0, 60.0), 0.5, 2, 0.8)
        canvas.put(inner, mask, window)
    dark = _times(colour, 0.42)
    canvas.stroke(seam, dark, 0.75 if gap < 2.2 else 0.5, 1, 0.5)
    if gap > 2.2:
        canvas.stroke(place(curve(inside[[4, 5, 6, 7, 0]])), dark, 0.4, 1, 0.5)
    for end in (0, 6):
        canvas.fill(_disc(place(outer[end]), 1.5, 8), dark, 0.5, 0.9)


def _swatches(pixels: Float, params: FaceParams, strands: Float, offset: int, rng: np.random.Generator) -> None:
    """Hair, ear and plain skin beside the face."""
    part = (
        strands[offset : offset + HEIGHT, offset : offset + HAIR_WIDTH]
        if offset + HEIGHT <= len(strands)
        else strands[:HEIGHT, :HAIR_WIDTH]
    )
    if params.hair_style == "hat":
        cloth = rng.uniform(20, 220, 3).astype(np.float32)
        pixels[:, HAIR_AT : HAIR_AT + HAIR_WIDTH] = cloth * (1 + 0.05 * part[..., None])
    elif params.hair_style != "bald":
        pixels[:, HAIR_AT : HAIR_AT + HAIR_WIDTH] = (
            np.asarray(params.hair, np.float32) * (1 + 0.34 * part[..., None]) + 5 * part[..., None]
        )
    ear = Canvas(pixels[:EAR_HEIGHT, EAR_AT : EAR_AT + EAR_WIDTH])
    ear.pixels[:] = np.asarray(params.skin, np.float32) * (0.92, 0.92, 1.0)
    dark = _times(params.skin, 0.5)
    ear.fill(np.array([[12.0, 26.0], [24.0, 18.0], [28.0, 34.0], [20.0, 50.0], [12.0, 44.0]]), dark, 0.6, 3.0)
    ear.stroke(
        curve(np.array([[10.0, 24.0], [16.0, 10.0], [28.0, 10.0], [33.0, 28.0], [26.0, 46.0]])), dark, 0.5, 2, 1.4
    )


__all__ = ["Canvas", "curve", "paint", "place"]
