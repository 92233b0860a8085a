"""The painted skin: the face in its own (u, v) plane, and beside it swatches for hair, neck and ears.

Colours go into a BGR picture of one texel per millimetre; soft shadows (folds, sockets, stubble of hair on the
forehead) go into a picture of half that size that later dims the light.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.images import Image
from train.data.synth import figure as fig
from train.data.synth.brush import Colour, Shadows, curve, disc, fill, fixed, lay, times
from train.data.synth.marks import Features
from train.data.synth.params import FaceParams

Array = NDArray[np.float64]
Float = NDArray[np.float32]
_VARIANTS = 5


def place(uv: Array) -> Array:
    """Atlas texels of places (u, v)."""
    return uv - (fig.LEFT, fig.TOP)


@lru_cache(maxsize=_VARIANTS)
def _detail(variant: int) -> Image:
    """Neutral skin (160 is plain) with grain, blotches and flush; strands where hair is painted. The same for all faces."""
    rng = np.random.Generator(np.random.PCG64(variant))
    height, width = fig.ATLAS_HEIGHT, fig.ATLAS_WIDTH
    fine = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), 1.0)
    blotch = cv2.resize(
        rng.standard_normal((26, 38)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    tone = 1.0 + fine / fine.std() * (0.010 + 0.005 * variant) + blotch * 0.022
    detail = np.repeat(tone[..., None], 3, axis=2)
    u, v = np.meshgrid(np.arange(fig.FACE_WIDTH) + fig.LEFT, np.arange(fig.FACE_HEIGHT) + fig.TOP)
    flush = np.zeros((height, width))
    flush[: fig.FACE_HEIGHT, : fig.FACE_WIDTH] = (
        _spot(u, v, 42, 33, 15, 13) + 0.8 * _spot(u, v, 0, 38, 12, 8) + 0.4 * _spot(u, v, 0, 104, 14, 9)
    )
    flush[fig.EAR_TOP :, fig.SIDE_AT :] = 0.9
    detail[..., 0] *= 1 - 0.11 * flush
    detail[..., 1] *= 1 - 0.11 * flush
    strands = _strands(rng, fig.HAIR_HEIGHT + 2, fig.SIDE_WIDTH + 2)
    detail[: fig.HAIR_HEIGHT + 2, fig.SIDE_AT - 1 : fig.SIDE_AT + fig.SIDE_WIDTH + 1] = (1 + 0.24 * strands)[..., None]
    return np.clip(np.rint(detail * 160), 0, 255).astype(np.uint8)


def _strands(rng: np.random.Generator, height: int, width: int) -> Float:
    """Vertical streaks, mean 0, standard deviation 1."""
    fine = cv2.blur(rng.standard_normal((height, width)).astype(np.float32), (1, 31))
    broad = cv2.blur(rng.standard_normal((height, width)).astype(np.float32), (7, 61))
    mixed = fine / fine.std() + 0.9 * broad / broad.std()
    return np.asarray((mixed - mixed.mean()) / mixed.std(), np.float32)


def _spot(u: Array, v: Array, u0: float, v0: float, su: float, sv: float) -> Array:
    return np.asarray(np.exp(-0.5 * (((np.abs(u) - u0) / su) ** 2 + ((v - v0) / sv) ** 2)))


@lru_cache(maxsize=1)
def hollows() -> Float:
    """How much light the hollows of a face get, at half the atlas size."""
    x, y = np.meshgrid(np.arange(fig.ATLAS_WIDTH // 2) * 2 + 0.5, np.arange(fig.ATLAS_HEIGHT // 2) * 2 + 0.5)
    u, v = x + fig.LEFT, y + fig.TOP
    a = np.abs(u)
    dim = (
        0.22 * _spot(u, v, 18, -3, 6, 9) + 0.10 * _spot(u, v, 31, 11, 12, 4) + 0.13 * _spot(u, v, 32, -9, 13, 3.5)
        + 0.14 * _spot(u, v, 18, 37, 2.6, 7) + 0.22 * _spot(u, v, 7, 46, 7, 2.2) + 0.10 * _spot(u, v, 0, 52, 3, 4)
        + 0.20 * _spot(u, v, 0, 83, 13, 3.5) + 0.10 * _spot(u, v, 34, 66, 5, 9) + 0.10 * _spot(u, v, 13, 20, 3, 12)
    )  # fmt: skip
    dim = (
        dim + 0.42 * np.clip((v - 112) / 16, 0, 1) + 0.3 * np.clip((a - 106) / 25, 0, 1) * np.clip((v - 35) / 40, 0, 1)
    )
    light = np.where(x < fig.FACE_WIDTH + 1, 1 - np.clip(dim, 0, 0.75), 1.0)
    return light.astype(np.float32)


_GROW_TOP, _GROW_BOTTOM = 110, fig.FACE_HEIGHT
_GROW_LEFT, _GROW_RIGHT = 22, fig.FACE_WIDTH - 22


@lru_cache(maxsize=1)
def _growth() -> tuple[Float, Float, Image]:
    """Where beard and moustache grow (0..1), and neutral strands over the same window of the face."""
    u, v = np.meshgrid(np.arange(_GROW_LEFT, _GROW_RIGHT) + fig.LEFT, np.arange(_GROW_TOP, _GROW_BOTTOM) + fig.TOP)
    a = np.abs(u)
    edge = np.interp(a, (0, 20, 30, 40, 60, 85, 100, 112), (90, 84, 66, 62, 52, 34, 4, -30))
    beard = 1 / (1 + np.exp(-(v - edge) / 2.6))
    beard *= np.clip((126 - v) / 12, 0, 1) * np.clip((110 - a) / 8, 0, 1)
    moustache = np.exp(-0.5 * ((a / 25.0) ** 4 + ((v - 53 - 0.10 * a) / 3.6) ** 2)) * np.clip(a / 3.0 + 0.55, 0, 1)
    chin_sides = np.exp(-0.5 * (((a - 31) / 4.0) ** 2 + ((v - 68) / 10.0) ** 2))
    rng = np.random.Generator(np.random.PCG64(99))
    strands = _strands(rng, *beard.shape)
    fine = cv2.blur(rng.standard_normal(beard.shape).astype(np.float32), (1, 5))
    roots = np.clip(0.8 + 0.28 * fine / fine.std() + 0.12 * strands, 0.15, 1.2)
    coat = np.clip(np.rint((1 + 0.22 * strands) * 160), 0, 255).astype(np.uint8)
    return (
        (np.clip(beard + 0.8 * chin_sides, 0, 1) * roots * 0.95).astype(np.float32),
        (moustache * roots * 0.95).astype(np.float32),
        cv2.merge((coat, coat, coat)),
    )


def paint(params: FaceParams, features: Features, cloth: Colour, rng: np.random.Generator) -> tuple[Image, Float]:
    """The atlas of one face (BGR) and its shadows (half size, 1 = none)."""
    detail = _detail(int(rng.integers(_VARIANTS)))
    face = cv2.transform(detail, np.diag(np.asarray(params.skin, np.float32) / np.float32(160)))
    pixels = np.asarray(face, np.uint8)
    shadows = Shadows(hollows().shape)
    _hair_swatch(pixels, detail, params, rng)
    _ears(shadows)
    _collar(pixels, cloth, params.hair_part)
    if params.freckles > 0:
        _freckles(pixels, params, rng)
    _make_up(pixels, params, features)
    if params.beard > 0.02 or params.moustache > 0.02:
        _beard(pixels, params)
    _wrinkles(shadows, params, features)
    _hairline(pixels, shadows, params, rng)
    _nose(pixels, shadows, params, features)
    _brows(pixels, params, features, rng)
    for which in (0, 1):
        _eye(pixels, shadows, params, features, which)
    _mouth(pixels, shadows, params, features)
    if params.occluder == "mask":
        _mask(pixels, shadows, params, features, rng)
    return pixels, shadows.finish(hollows())


def _hair_swatch(pixels: Image, detail: Image, params: FaceParams, rng: np.random.Generator) -> None:
    colour = params.hair
    if params.hair_style == "bald":
        pixels[: fig.HAIR_HEIGHT + 2, fig.SIDE_AT - 1 :] = params.skin
        return
    if params.hair_style == "hat":
        b, g, r = (float(c) for c in rng.uniform(20, 215, 3))
        colour = (b, g, r)
    window = np.s_[: fig.HAIR_HEIGHT + 2, fig.SIDE_AT - 1 : fig.SIDE_AT + fig.SIDE_WIDTH + 1]
    pixels[window] = cv2.transform(detail[window], np.diag(np.asarray(colour, np.float32) / np.float32(160)))
    if params.hair_style == "hat":
        band = tuple(float(c) for c in rng.uniform(10, 230, 3))
        cv2.rectangle(pixels, (fig.SIDE_AT - 1, 98), (fig.SIDE_AT + fig.SIDE_WIDTH, fig.HAIR_HEIGHT + 1), band, -1)


def _ears(shadows: Shadows) -> None:
    for left in (fig.SIDE_AT, fig.SIDE_AT + fig.EAR_WIDTH + 2):
        middle = np.array([left + fig.EAR_WIDTH / 2, fig.EAR_TOP + fig.EAR_HEIGHT / 2])
        shadows.fill(middle + disc(0.0, 0.0, 13.0, 11.0), 0.62)
        shadows.stroke(middle + np.array([[-16.0, -6.0], [-4.0, -13.0], [12.0, -11.0], [19.0, 0.0], [12.0, 12.0]]), 0.7, 2)


def _collar(pixels: Image, cloth: Colour, cut: float) -> None:
    """Clothes on the lower part of the neck's swatch, lower in front than behind."""
    across = np.linspace(-1.0, 1.0, 13)
    edge = fig.NECK_TOP + fig.NECK_HEIGHT * (0.74 + (0.12 + 0.03 * cut) * np.cos(across * np.pi / 2) ** 2)
    x = fig.SIDE_AT + fig.SIDE_WIDTH * (across + 1) / 2
    outline = np.concatenate([np.stack([x, edge], -1), [[x[-1] + 2, fig.EAR_TOP - 1.0], [x[0] - 1, fig.EAR_TOP - 1.0]]])
    fill(pixels, outline, cloth)
    cv2.polylines(pixels, [fixed(outline[:13])], False, times(cloth, 0.7), 2, cv2.LINE_AA, 4)


def _freckles(pixels: Image, params: FaceParams, rng: np.random.Generator) -> None:
    for x, y in fixed(place(rng.normal(0, 1, (50, 2)) * (28, 11) + (0, 26))).tolist():
        cv2.circle(pixels, (x, y), 11, times(params.skin, 1 - 0.25 * params.freckles), -1, cv2.LINE_AA, 4)


def _make_up(pixels: Image, params: FaceParams, features: Features) -> None:
    if params.blush > 0:
        for side in (-1.0, 1.0):
            lay(pixels, place(disc(44.0 * side, 30.0, 16.0, 10.0)), (120.0, 90.0, 225.0), 0.7 * params.blush, 5.0)
    if params.eye_shadow > 0:
        for first, brow in ((60, (41, 40, 39, 38)), (68, (47, 48, 49, 50))):
            lid = features.line(first, first + 5)
            above = features.uv[[k - 33 for k in brow]].mean(axis=0)[1]
            upper = lid[::-1].copy()
            upper[1:-1, 1] += (above - upper[1:-1, 1]) * 0.6
            upper[[0, -1], 1] -= 2.0
            lay(pixels, place(np.concatenate([lid, upper])), params.eye_shadow_colour, 0.7 * params.eye_shadow, 1.3)


def _beard(pixels: Image, params: FaceParams) -> None:
    beard, moustache, strands = _growth()
    window = np.s_[_GROW_TOP:_GROW_BOTTOM, _GROW_LEFT:_GROW_RIGHT]
    weight = cv2.addWeighted(beard, params.beard, moustache, params.moustache, 0.0)
    weight = np.minimum(weight, np.float32(0.92))
    coat = cv2.transform(strands, np.diag(np.asarray(params.hair, np.float32) * np.float32(0.72 / 160)))
    skin = np.ascontiguousarray(pixels[window])
    pixels[window] = cv2.blendLinear(skin, coat, np.float32(1) - weight, weight)


def _wrinkles(shadows: Shadows, params: FaceParams, features: Features) -> None:
    grin = max(0.0, params.smile)
    strength = 0.05 + 0.22 * params.age**2
    mouth = features.line(76, 88)
    for side, corner in ((-1.0, mouth[0]), (1.0, mouth[6])):
        fold = np.array(
            [[17.5 * side, 40.0], [25.0 * side, 50.0], [corner[0] + 6.0 * side, 61.0], corner + (7.5 * side, 9.0)]
        )
        shadows.stroke(place(fold), 1 - min(0.45, strength + 0.28 * grin), 2)
        if grin > 0.4 or params.age > 0.6:
            for k in (-1.0, 1.0):
                crow = np.array([[52.0 * side, 1.0 + 3 * k], [61.0 * side, 1.0 + 7 * k]])
                shadows.stroke(place(crow), 1 - min(0.25, 0.12 * grin + 0.1 * params.age), 1)
    raised = max(0.0, *params.brow_lift)
    if params.age > 0.35 or raised > 4:
        depth = min(0.3, 0.22 * params.age**2 + 0.016 * raised)
        for k in range(3):
            height = -40.0 - 9.5 * k
            shadows.stroke(
                place(np.array([[-34.0, height + 3], [-14.0, height], [14.0, height], [34.0, height + 3]])),
                1 - depth,
                1,
            )
    if params.brow_frown > 0.3:
        for side in (-1.0, 1.0):
            shadows.stroke(
                place(np.array([[5.5 * side, -25.0], [4.0 * side, -17.0], [5.0 * side, -10.0]])),
                1 - 0.3 * params.brow_frown,
                1,
            )


def _hairline(pixels: Image, shadows: Shadows, params: FaceParams, rng: np.random.Generator) -> None:
    """The hair's shadow on the skin below its hem."""
    style = fig.STYLES[params.hair_style]
    if params.hair_style == "bald":
        return
    azimuth = (0.0, 0.5, 0.95, 1.3)
    line = np.array([[az * 82.0, hem + 3.0] for az, hem in zip(azimuth, style.hem, strict=False)])
    top = np.array([[142.0, line[-1, 1]], [142.0, -100.0], [0.0, -100.0]])
    half = np.concatenate([line, top])
    depth = 0.62 if params.hair_style != "hat" else 0.55
    for side in (1.0, -1.0):
        shadows.fill(place(half * (side, 1.0)), depth)
    if params.hair_style in ("short", "receding", "curly", "fringe"):
        burn = np.array([[98.0, -30.0], [112.0, -40.0], [112.0, 24.0], [104.0, 22.0]])
        colour = tuple(0.7 * h + 0.2 * s for h, s in zip(params.hair, params.skin, strict=True))
        for side in (1.0, -1.0):
            fill(pixels, place(burn * (side, 1.0)), colour)
    del rng


def _nose(pixels: Image, shadows: Shadows, params: FaceParams, features: Features) -> None:
    line = features.line(51, 60)
    for side, index in ((-1.0, 5), (1.0, 7)):
        x, y = line[index]
        hole = disc(x - 0.3 * side, y - 2.2, 3.7, 1.8)
        shadows.fill(place(hole * (1.0, 1.0)), 0.6)
        fill(pixels, place(hole), times(params.skin, 0.40))
        wing = np.array([[14.0, 30.0], [17.6, 36.0], [16.6, 41.5], [12.5, 44.0]]) * (side, 1.0)
        shadows.stroke(place(wing), 0.72, 1)
    shadows.stroke(place(line[4:9]) + (0.0, 1.2), 0.72, 1)


def _brows(pixels: Image, params: FaceParams, features: Features, rng: np.random.Generator) -> None:
    hair, skin = np.asarray(params.hair), np.asarray(params.skin)
    if hair.mean() > 95:
        hair = hair * 0.62
    b, g, r = (float(c) for c in 0.74 * hair + 0.16 * skin)
    jitter = rng.uniform(-0.9, 0.9, (2, 13, 2))
    for which, first in enumerate((33, 42)):
        line = features.line(first, first + 9)
        fill(pixels, place(np.concatenate([curve(line[:5], steps=3), curve(line[5:], steps=3)])), (b, g, r))
        upper = curve(line[:5], steps=3)
        lower = curve(line[5:][::-1], steps=4) if first == 33 else curve(line[5:][::-1], steps=4)
        roots = lower + jitter[which] * (1.0, 0.3)
        tips = upper * 0.8 + lower * 0.2 + jitter[which]
        lines = fixed(place(np.stack([roots, tips], axis=1)))
        cv2.polylines(pixels, list(lines[::2]), False, times((b, g, r), 0.66), 1, cv2.LINE_8, 4)


def _eye(pixels: Image, shadows: Shadows, params: FaceParams, features: Features, which: int) -> None:
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
        cv2.circle(
            ball, (at[0], at[1] + round(radius * 5)), round(radius * 7), times(params.iris, 1.35), -1, cv2.LINE_AA, 4
        )
        cv2.circle(ball, at, round(radius * 6.8), (10, 9, 9), -1, cv2.LINE_AA, 4)
        cv2.polylines(ball, [fixed(top - (x0, y0 - 0.6))], False, times(params.skin, 0.42), 2, cv2.LINE_8, 4)
        gleam = (at[0] + (26 if params.light[0] > 0 else -26), at[1] - 28)
        cv2.circle(ball, gleam, 18, (252, 252, 252), -1, cv2.LINE_AA, 4)
        mask = np.zeros(part.shape[:2], np.uint8)
        cv2.fillPoly(mask, [fixed(outline - (x0, y0))], 255, cv2.LINE_AA, 4)
        weight = mask.astype(np.float32) * np.float32(1 / 255)
        pixels[y0:y1, x0:x1] = cv2.blendLinear(ball, np.ascontiguousarray(part), weight, 1 - weight)
        inner = outline[12] if which == 0 else outline[0]
        cv2.circle(pixels, tuple(fixed(inner).tolist()), 16, (112, 112, 176), -1, cv2.LINE_AA, 4)
    width = 1 + int(params.liner > 0.4)
    cv2.polylines(pixels, [fixed(top - (0.0, 0.4))], False, lash, width, cv2.LINE_AA, 4)
    if params.liner > 0.7:
        cv2.polylines(pixels, [fixed(low + (0.0, 0.4))], False, lash, 1, cv2.LINE_AA, 4)
    else:
        shadows.stroke(low + (0.0, 0.8), 0.72, 1)
    shadows.stroke(top - (0.0, 4.0), 0.70, 1)
    if params.age > 0.3:
        shadows.stroke(low[2:-2] + (0.0, 6.0), 1 - 0.25 * params.age, 1)


def _mouth(pixels: Image, shadows: Shadows, params: FaceParams, features: Features) -> None:
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
        shadows.fill(place(disc(*outer[end].tolist(), 2.6, 2.2)), 0.62)
    shadows.stroke(place(outer[[10, 9, 8]] + (0.0, 2.4)), 0.80, 2)


def _mask(pixels: Image, shadows: Shadows, params: FaceParams, features: Features, rng: np.random.Generator) -> None:
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
    shadows.stroke(place(top) + (0.0, -1.5), 0.7, 1)
