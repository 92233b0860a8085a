"""The features of a face, painted where its points are: nose, brows, eyes, mouth; and a cloth mask over them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.images import Image
from train.data.synth.brush import Shadows, curve, disc, fill, fixed, place, shifted, times
from train.data.synth.marks import Features
from train.data.synth.params import FaceParams

Array = NDArray[np.float64]


def nose(pixels: Image, shadows: Shadows, params: FaceParams, features: Features) -> None:
    """Nostrils, the creases of the wings, the shadow under the base."""
    line = features.line(51, 60)
    for side, index in ((-1.0, 5), (1.0, 7)):
        x, y = line[index]
        hole = disc(x - 0.3 * side, y - 2.2, 3.7, 1.8)
        shadows.fill(place(hole * (1.0, 1.0)), 0.6)
        fill(pixels, place(hole), times(params.skin, 0.40))
        wing = np.array([[14.0, 30.0], [17.6, 36.0], [16.6, 41.5], [12.5, 44.0]]) * (side, 1.0)
        shadows.stroke(place(wing), 0.72, 1)
    shadows.stroke(shifted(place(line[4:9]), 0.0, 1.2), 0.72, 1)


def brows(pixels: Image, params: FaceParams, features: Features, rng: np.random.Generator) -> None:
    """Two filled outlines with hairs across."""
    hair, skin = np.asarray(params.hair), np.asarray(params.skin)
    if hair.mean() > 95:
        hair = hair * 0.62
    b, g, r = (float(c) for c in 0.74 * hair + 0.16 * skin)
    jitter = rng.uniform(-0.9, 0.9, (2, 7, 2, 2))
    outlines, hairs = [], []
    for which, first in enumerate((33, 42)):
        line = place(features.line(first, first + 9))
        upper, lower = curve(line[:5], steps=3), curve(line[5:], steps=4)
        outlines.append(fixed(np.concatenate([upper, lower])))
        back = lower[::-2]
        hairs += list(fixed(np.stack([back, upper[::2] * 0.8 + back * 0.2], axis=1) + jitter[which]))
    cv2.fillPoly(pixels, outlines, (b, g, r), cv2.LINE_AA, 4)
    cv2.polylines(pixels, hairs, False, times((b, g, r), 0.66), 1, cv2.LINE_8, 4)


def eye(pixels: Image, shadows: Shadows, params: FaceParams, features: Features, which: int) -> None:
    """Eyeball, iris and gleam inside the lids; lashes, crease and liner around them. 0 is image left."""
    first = 60 + 8 * which
    ring = features.line(first, first + 8)
    opening = params.eye_open[which]
    outline = place(curve(ring, closed=True, steps=3))
    top, low = outline[:13], np.concatenate([outline[12:], outline[:1]])
    lash = times(params.skin, 0.20)
    if opening > 0.1:
        x, y = place(features.line(96 + which, 97 + which))[0]
        x0, y0 = int(outline[:, 0].min()) - 2, int(outline[:, 1].min()) - 2
        x1, y1 = int(outline[:, 0].max()) + 4, int(outline[:, 1].max()) + 4
        part = pixels[y0:y1, x0:x1]
        ball = np.empty_like(part)
        white = 232.0 - 12 * params.age
        ball[:] = (white * 0.95, white * 0.96, white)
        at = (round((x - x0) * 16), round((y - y0) * 16))
        radius = features.iris_radius
        cv2.circle(ball, at, round(radius * 16), times(params.iris, 0.5), -1, cv2.LINE_AA, 4)
        cv2.circle(ball, at, round(radius * 13.4), params.iris, -1, cv2.LINE_AA, 4)
        cv2.circle(ball, at, round(radius * 6.8), (10, 9, 9), -1, cv2.LINE_AA, 4)
        cv2.polylines(ball, [fixed(top - (x0, y0 - 0.6))], False, times(params.skin, 0.42), 2, cv2.LINE_8, 4)
        gleam = (at[0] + (26 if params.light[0] > 0 else -26), at[1] - 28)
        cv2.circle(ball, gleam, 18, (252, 252, 252), -1, cv2.LINE_AA, 4)
        mask = np.zeros(part.shape[:2], np.uint8)
        cv2.fillPoly(mask, [fixed(outline - (x0, y0))], 255, cv2.LINE_8, 4)
        cv2.copyTo(ball, mask, part)
        inner = outline[12] if which == 0 else outline[0]
        cv2.circle(pixels, tuple(fixed(inner).tolist()), 16, (112, 112, 176), -1, cv2.LINE_8, 4)
    width = 1 + int(params.liner > 0.4)
    cv2.polylines(pixels, [fixed(shifted(top, 0.0, -0.4))], False, lash, width, cv2.LINE_AA, 4)
    if params.liner > 0.7:
        cv2.polylines(pixels, [fixed(shifted(low, 0.0, 0.4))], False, lash, 1, cv2.LINE_AA, 4)
    else:
        shadows.stroke(shifted(low, 0.0, 0.8), 0.72, 1)
    shadows.stroke(shifted(top, 0.0, -4.0), 0.70, 1)
    if params.age > 0.3:
        shadows.stroke(shifted(low[2:-2], 0.0, 6.0), 1 - 0.25 * params.age, 1)


def mouth(pixels: Image, shadows: Shadows, params: FaceParams, features: Features) -> None:
    """Lips, and what an open mouth shows: teeth, tongue, darkness."""
    outer, inside = features.line(76, 88), features.line(88, 96)
    b, g, r = params.skin
    k = params.lipstick
    natural = np.array((b * 0.60, g * 0.56, min(255.0, r * 0.82)))
    lb, lg, lr = (float(c) for c in natural * (1 - k) + np.asarray(params.lipstick_colour) * k)
    lips = (lb, lg, lr)
    fill(pixels, place(curve(outer, closed=True, steps=3)), lips)
    shine = place(outer[9]) - (0.0, 4.4 * params.lip_lower)
    cv2.ellipse(pixels, (tuple(shine.tolist()), (13.0, 2.6), 0.0), times(lips, 1.22 + 0.12 * k), -1, cv2.LINE_AA)
    seam, floor = curve(inside[:5]), curve(inside[[0, 7, 6, 5, 4]])
    gap = floor[:, 1] - seam[:, 1]
    if gap.max() > 2.2:
        fill(pixels, place(np.concatenate([seam, floor[::-1]])), (24.0, 18.0, 48.0))
        if gap.max() > 7:
            tongue = floor.copy()
            tongue[:, 1] -= gap * 0.36
            fill(pixels, place(np.concatenate([tongue[4:-4], floor[4:-4][::-1]])), (84.0, 76.0, 160.0))
        if params.smile > 0.1 or gap.max() > 6:
            teeth = seam + np.stack([np.zeros_like(gap), np.minimum(7.0, gap * 0.62)], -1)
            fill(pixels, place(np.concatenate([seam[1:-1], teeth[1:-1][::-1]])), (204.0, 220.0, 226.0))
    line = fixed(place(seam))
    cv2.polylines(pixels, [line], False, times(lips, 0.42), 1, cv2.LINE_AA, 4)
    for end in (0, 6):
        x, y = outer[end].tolist()
        shadows.fill(place(disc(x, y, 2.6, 2.2)), 0.62)
    shadows.stroke(place(outer[[10, 9, 8]] + (0.0, 2.4)), 0.80, 2)


def mask(pixels: Image, shadows: Shadows, rng: np.random.Generator) -> None:
    """A cloth mask over nose, mouth and chin, with its straps."""
    colour = times((235.0, 225.0, 210.0), float(rng.uniform(0.15, 1.0)))
    if rng.random() < 0.5:
        colour = (210.0, 180.0, 130.0)
    top = np.array(
        [
            [-96.0, 30.0],
            [-62.0, 26.0],
            [-30.0, 20.0],
            [-9.0, 12.0],
            [0.0, 10.0],
            [9.0, 12.0],
            [30.0, 20.0],
            [62.0, 26.0],
            [96.0, 30.0],
        ]
    )
    low = np.array(
        [[92.0, 70.0], [60.0, 104.0], [24.0, 128.0], [0.0, 130.0], [-24.0, 128.0], [-60.0, 104.0], [-92.0, 70.0]]
    )
    fill(pixels, place(np.concatenate([top, low])), colour)
    for side in (-1.0, 1.0):
        cv2.polylines(
            pixels,
            [fixed(place(np.array([[90.0 * side, 34.0], [125.0 * side, 0.0]])))],
            False,
            colour,
            2,
            cv2.LINE_AA,
            4,
        )
        cv2.polylines(
            pixels,
            [fixed(place(np.array([[88.0 * side, 72.0], [125.0 * side, 44.0]])))],
            False,
            colour,
            2,
            cv2.LINE_AA,
            4,
        )
    for height in (48.0, 66.0, 84.0):
        shadows.stroke(place(np.array([[-70.0, height - 6], [0.0, height], [70.0, height - 6]])), 0.86, 1)
    shadows.stroke(shifted(place(top), 0.0, -1.5), 0.7, 1)
