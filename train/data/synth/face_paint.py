"""The features of a face, painted where its points are: nose, brows, eyes, mouth; and a cloth mask over them."""

from __future__ import annotations

import cv2
import numpy as np

from runtime.images import Image
from train.data.synth.brush import SHIFT, Curves, Ink, Shadows, disc, ink, mirrored, mixed, times
from train.data.synth.dice import Dice
from train.data.synth.marks import NOSE_PLACES, Features
from train.data.synth.params import FaceParams


def _numbers(first: int, stop: int) -> list[int]:
    """Rows of `Features.uv` for WFLW points first..stop-1."""
    return list(range(first - 33, stop - 33))


CURVES = Curves.through(
    {
        "brow 0": (_numbers(33, 38), False, 3),
        "under 0": (_numbers(38, 42), False, 4),
        "brow 1": (_numbers(42, 47), False, 3),
        "under 1": (_numbers(47, 51), False, 4),
        "eye 0": (_numbers(60, 68), True, 3),
        "eye 1": (_numbers(68, 76), True, 3),
        "lips": (_numbers(76, 88), True, 3),
        "seam": (_numbers(88, 93), False, 4),
        "floor": ([k - 33 for k in (88, 95, 94, 93, 92)], False, 4),
    }
)
_HOLES = [
    ink(disc(float(NOSE_PLACES[k, 0]) - 0.3 * side, float(NOSE_PLACES[k, 1]) - 2.2, 3.7, 1.8))
    for side, k in ((-1.0, 5), (1.0, 7))
]
_WINGS = [
    *mirrored([[14.0, 30.0], [17.6, 36.0], [16.6, 41.5], [12.5, 44.0]]),
    ink(NOSE_PLACES[4:9] + np.array([0.0, 1.2])),
]


def nose(pixels: Image, shadows: Shadows, params: FaceParams) -> None:
    """Nostrils, the creases of the wings, the shadow under the base."""
    shadows.fill(_HOLES, 0.6)
    cv2.fillPoly(pixels, _HOLES, times(params.skin, 0.40), cv2.LINE_AA, SHIFT)
    shadows.stroke(_WINGS, 0.72)


_JITTER = np.random.Generator(np.random.PCG64(5)).integers(-14, 15, (32, 2, 7, 2, 2), np.int32)


def brows(pixels: Image, params: FaceParams, lines: dict[str, Ink], dice: Dice) -> None:
    """Two filled outlines with hairs across."""
    dull = 0.46 if sum(params.hair) > 285 else 0.74
    colour = mixed(params.hair, params.skin, dull, 0.16)
    outlines, hairs = [], []
    jitter = _JITTER[dice.whole(0, len(_JITTER))].copy()
    for which in (0, 1):
        upper, lower = lines[f"brow {which}"], lines[f"under {which}"]
        outlines.append(np.concatenate([upper, lower]))
        across = jitter[which]
        back = lower[::-2]
        across[:, 0] += back
        across[:, 1] += (upper[::2] * 3 + back) >> 2
        hairs += list(across)
    cv2.fillPoly(pixels, outlines, colour, cv2.LINE_AA, SHIFT)
    cv2.polylines(pixels, hairs, False, times(colour, 0.66), 1, cv2.LINE_8, SHIFT)


def eye(pixels: Image, shadows: Shadows, params: FaceParams, features: Features, ring: Ink, which: int) -> None:
    """Eyeball, iris and gleam inside the lids; lashes, crease and liner around them. 0 is image left."""
    opening = params.eye_open[which]
    top, low = ring[:13], np.concatenate([ring[12:], ring[:1]])
    if opening > 0.1:
        _eyeball(pixels, params, features, ring, which)
    lash = times(params.skin, 0.20)
    cv2.polylines(pixels, [top - _LASH], False, lash, 2 if params.liner > 0.4 else 1, cv2.LINE_AA, SHIFT)
    if params.liner > 0.7:
        cv2.polylines(pixels, [low + _LASH], False, lash, 1, cv2.LINE_AA, SHIFT)
        shadows.stroke([top - _CREASE], 0.70)
    else:
        shadows.stroke([low + 2 * _LASH, top - _CREASE], 0.71)
    if params.age > 0.3:
        shadows.stroke([low[2:-2] + _BAG], 1 - 0.25 * params.age)


_LASH, _CREASE, _BAG = (np.array((0, step), np.int32) for step in (6, 64, 96))
_LID = np.array((0, 10), np.int32)


def _eyeball(pixels: Image, params: FaceParams, features: Features, ring: Ink, which: int) -> None:
    corner = (ring.min(axis=0) >> SHIFT) - 2
    end = (ring.max(axis=0) >> SHIFT) + 4
    (x0, y0), (x1, y1) = corner.tolist(), end.tolist()
    part = pixels[y0:y1, x0:x1]
    ball = np.empty_like(part)
    white = 232.0 - 12 * params.age
    ball[:] = (white * 0.95, white * 0.96, white)
    origin = corner << SHIFT
    inside = ring - origin
    x, y = (ink(features.uv[63 + which]) - origin).tolist()
    radius = features.iris_radius
    cv2.circle(ball, (x, y), round(radius * 16), times(params.iris, 0.5), -1, cv2.LINE_AA, SHIFT)
    cv2.circle(ball, (x, y), round(radius * 13.4), params.iris, -1, cv2.LINE_AA, SHIFT)
    cv2.circle(ball, (x, y), round(radius * 6.8), (10, 9, 9), -1, cv2.LINE_AA, SHIFT)
    cv2.polylines(ball, [inside[:13] + _LID], False, times(params.skin, 0.42), 2, cv2.LINE_8, SHIFT)
    gleam = (x + (26 if params.light[0] > 0 else -26), y - 28)
    cv2.circle(ball, gleam, 18, (252, 252, 252), -1, cv2.LINE_AA, SHIFT)
    mask = np.zeros(part.shape[:2], np.uint8)
    cv2.fillPoly(mask, [inside], 255, cv2.LINE_8, SHIFT)
    cv2.copyTo(ball, mask, part)
    inner = ring[12 if which == 0 else 0].tolist()
    cv2.circle(pixels, inner, 16, (112, 112, 176), -1, cv2.LINE_8, SHIFT)


_CORNER = disc(0.0, 0.0, 2.6, 2.2)
_BELOW_LIP = np.array((0, 38), np.int32)


def mouth(pixels: Image, shadows: Shadows, params: FaceParams, features: Features, lines: dict[str, Ink]) -> None:
    """Lips, and what an open mouth shows: teeth, tongue, darkness."""
    b, g, r = params.skin
    k = params.lipstick
    lips = mixed((b * 0.60, g * 0.56, min(255.0, r * 0.82)), params.lipstick_colour, 1 - k, k)
    ring, seam, floor = lines["lips"], lines["seam"], lines["floor"]
    cv2.fillPoly(pixels, [ring], lips, cv2.LINE_AA, SHIFT)
    x, y = ring[27].tolist()
    shine = ((x / 16, y / 16 - 4.4 * params.lip_lower), (13.0, 2.6), 0.0)
    cv2.ellipse(pixels, shine, times(lips, 1.22 + 0.12 * k), -1, cv2.LINE_8)
    gap = (floor - seam)[:, 1]
    widest = int(gap.max())
    if widest > 35:
        cv2.fillPoly(pixels, [np.concatenate([seam, floor[::-1]])], (24.0, 18.0, 48.0), cv2.LINE_AA, SHIFT)
        if widest > 112:
            tongue = floor[4:-4].copy()
            tongue[:, 1] -= (gap[4:-4] * 23) >> 6
            cv2.fillPoly(pixels, [np.concatenate([tongue, floor[-5:3:-1]])], (84.0, 76.0, 160.0), cv2.LINE_AA, SHIFT)
        if params.smile > 0.1 or widest > 96:
            teeth = seam[1:-1].copy()
            teeth[:, 1] += np.minimum(112, (gap[1:-1] * 40) >> 6)
            cv2.fillPoly(pixels, [np.concatenate([seam[1:-1], teeth[::-1]])], (204.0, 220.0, 226.0), cv2.LINE_AA, SHIFT)
    cv2.polylines(pixels, [seam], False, times(lips, 0.42), 1, cv2.LINE_AA, SHIFT)
    shadows.fill([ink(features.uv[k] + _CORNER) for k in (43, 49)], 0.62)
    shadows.stroke([ring[[30, 27, 24]] + _BELOW_LIP], 0.80, 2)


_MASK_TOP = [[96.0, 30.0], [62.0, 26.0], [30.0, 20.0], [9.0, 12.0], [0.0, 10.0]]
_MASK_LOW = [[0.0, 130.0], [24.0, 128.0], [60.0, 104.0], [92.0, 70.0]]
_MASK = mirrored([*_MASK_TOP, *_MASK_LOW])
_STRAPS = [*mirrored([[90.0, 34.0], [125.0, 0.0]]), *mirrored([[88.0, 72.0], [125.0, 44.0]])]
_FOLDS = [ink(np.array([[-70.0, v - 6], [0.0, v], [70.0, v - 6]])) for v in (48.0, 66.0, 84.0)]
_MASK_EDGE = mirrored([[u, v - 1.5] for u, v in _MASK_TOP])


def cloth_mask(pixels: Image, shadows: Shadows, dice: Dice) -> None:
    """A cloth mask over nose, mouth and chin, with its straps."""
    colour = times((235.0, 225.0, 210.0), dice.between(0.15, 1.0))
    if dice.share() < 0.5:
        colour = (210.0, 180.0, 130.0)
    for half in _MASK:
        cv2.fillPoly(pixels, [half], colour, cv2.LINE_AA, SHIFT)
    cv2.polylines(pixels, _STRAPS, False, colour, 2, cv2.LINE_AA, SHIFT)
    shadows.stroke(_FOLDS, 0.86)
    shadows.stroke(_MASK_EDGE, 0.7)
