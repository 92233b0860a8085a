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
from train.data.synth.brush import SHIFT, Colour, Ink, Shadows, disc, fixed, ink, lay, mirrored, mixed, times
from train.data.synth.dice import Dice
from train.data.synth.face_paint import CURVES, brows, cloth_mask, eye, mouth, nose
from train.data.synth.head import ARC, jaw_edge
from train.data.synth.marks import Features
from train.data.synth.params import FaceParams

Array = NDArray[np.float64]
Float = NDArray[np.float32]
_VARIANTS = 5
_HAIR_WINDOW = np.s_[: fig.HAIR_HEIGHT + 2, fig.SIDE_AT - 1 : fig.SIDE_AT + fig.SIDE_WIDTH + 1]


@lru_cache(maxsize=_VARIANTS)
def _detail(variant: int) -> Image:
    """Neutral skin (160 is plain) with grain, blotches and flush, and strands of hair; the same for all faces."""
    rng = np.random.Generator(np.random.PCG64(variant))
    height, width = fig.ATLAS_HEIGHT, fig.ATLAS_WIDTH
    fine = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), 1.0)
    blotch = cv2.resize(
        rng.standard_normal((26, 38)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    tone = 1.0 + fine / fine.std() * (0.008 + 0.004 * variant) + blotch * 0.022
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
    detail[_HAIR_WINDOW] = (1 + 0.20 * strands)[..., None]
    return np.asarray(np.clip(np.rint(detail * 160), 0, 255), np.uint8)


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
    under = np.clip((v - np.maximum(jaw_edge(u), 60.0)) / 12, 0, 1)
    dim = dim + 0.45 * under + 0.2 * np.clip((a - 106) / 25, 0, 1) * np.clip((v - 35) / 40, 0, 1)
    light = np.where(x < fig.FACE_WIDTH + 1, 1 - np.clip(dim, 0, 0.75), 1.0)
    ears = Shadows(light.shape)
    for left in (fig.SIDE_AT, fig.SIDE_AT + fig.EAR_WIDTH + 2):
        centre = np.array([left + fig.EAR_WIDTH / 2, fig.EAR_TOP + fig.EAR_HEIGHT / 2])
        ears.fill([fixed(centre + disc(0.0, 0.0, 13.0, 11.0))], 0.62)
        rim = np.array([[-16.0, -6.0], [-4.0, -13.0], [12.0, -11.0], [19.0, 0.0], [12.0, 12.0]])
        ears.stroke([fixed(centre + rim)], 0.7, 2)
    return ears.finish(light.astype(np.float32))


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


def paint(params: FaceParams, features: Features, cloth: Colour, dice: Dice) -> tuple[Image, Float]:
    """The atlas of one face (BGR) and its shadows (half size, 1 = none)."""
    detail = _detail(dice.whole(0, _VARIANTS))
    face = cv2.transform(detail, np.diag(np.asarray(params.skin, np.float32) / np.float32(160)))
    pixels = np.asarray(face, np.uint8)
    shadows = Shadows(hollows().shape)
    _hair_swatch(pixels, detail, params, dice)
    _collar(pixels, cloth)
    if params.freckles > 0:
        _freckles(pixels, params, dice)
    _make_up(pixels, params, features)
    if params.beard > 0.06:
        _beard(pixels, params)
    _wrinkles(shadows, params, features)
    _hairline(pixels, shadows, params)
    nose(pixels, shadows, params)
    lines = CURVES.draw(features.uv)
    brows(pixels, params, lines, dice)
    for which in (0, 1):
        eye(pixels, shadows, params, features, lines[f"eye {which}"], which)
    mouth(pixels, shadows, params, features, lines)
    if params.occluder == "mask":
        cloth_mask(pixels, shadows, dice)
    return pixels, shadows.finish(hollows())


def _hair_swatch(pixels: Image, detail: Image, params: FaceParams, dice: Dice) -> None:
    colour = params.hair
    if params.hair_style == "bald":
        pixels[_HAIR_WINDOW] = cv2.flip(pixels[: fig.HAIR_HEIGHT // 2 + 1, 70 : 70 + fig.SIDE_WIDTH + 2], -1).repeat(
            2, axis=0
        )
        return
    if params.hair_style == "hat":
        colour = dice.colour(20, 215)
    pixels[_HAIR_WINDOW] = cv2.transform(
        detail[_HAIR_WINDOW], np.diag(np.asarray(colour, np.float32) / np.float32(160))
    )
    if params.hair_style == "hat":
        band = dice.colour(10, 230)
        cv2.rectangle(pixels, (fig.SIDE_AT - 1, 98), (fig.SIDE_AT + fig.SIDE_WIDTH, fig.HAIR_HEIGHT + 1), band, -1)


def _collar_outline() -> Array:
    across = np.linspace(-1.0, 1.0, 13)
    edge = fig.NECK_TOP + fig.NECK_HEIGHT * (0.74 + 0.12 * np.cos(across * np.pi / 2) ** 2)
    x = fig.SIDE_AT + fig.SIDE_WIDTH * (across + 1) / 2
    bottom = [[x[-1] + 2, fig.EAR_TOP - 1.0], [x[0] - 1, fig.EAR_TOP - 1.0]]
    return np.concatenate([np.stack([x, edge], -1), bottom])


_COLLAR = fixed(_collar_outline())
_COLLAR_INSIDE = _COLLAR + np.array([[0, 32]] * 13 + [[0, 0]] * 2, np.int32)


def _collar(pixels: Image, cloth: Colour) -> None:
    """Clothes on the lower part of the neck's swatch, lower in front than behind."""
    cv2.fillPoly(pixels, [_COLLAR], times(cloth, 0.7), cv2.LINE_AA, 4)
    cv2.fillPoly(pixels, [_COLLAR_INSIDE], cloth, cv2.LINE_8, 4)


def _freckles(pixels: Image, params: FaceParams, dice: Dice) -> None:
    colour = times(params.skin, 1 - 0.25 * params.freckles)
    for x, y in ink(dice.rng.standard_normal((50, 2)) * (28, 11) + (0, 26)).tolist():
        cv2.circle(pixels, (x, y), 11, colour, -1, cv2.LINE_AA, SHIFT)


_CHEEKS = [ink(disc(44.0 * side, 30.0, 15.0, 9.0)) for side in (-1.0, 1.0)]


def _make_up(pixels: Image, params: FaceParams, features: Features) -> None:
    if params.blush > 0:
        for cheek in _CHEEKS:
            lay(pixels, cheek, (120.0, 90.0, 225.0), 0.7 * params.blush, 7)
    if params.eye_shadow > 0:
        for first, brow in ((60, slice(38, 42)), (68, slice(47, 51))):
            lid = features.line(first, first + 5)
            above = float(features.line(brow.start, brow.stop)[:, 1].mean())
            upper = lid[::-1].copy()
            upper[1:-1, 1] += (above - upper[1:-1, 1]) * 0.6
            upper[[0, -1], 1] -= 2.0
            lay(pixels, ink(np.concatenate([lid, upper])), params.eye_shadow_colour, 0.7 * params.eye_shadow, 2)


def _beard(pixels: Image, params: FaceParams) -> None:
    beard, moustache, strands = _growth()
    window = np.s_[_GROW_TOP:_GROW_BOTTOM, _GROW_LEFT:_GROW_RIGHT]
    weight = cv2.addWeighted(beard, params.beard, moustache, params.moustache, 0.0)
    weight = np.minimum(weight, np.float32(0.92))
    coat = cv2.transform(strands, np.diag(np.asarray(params.hair, np.float32) * np.float32(0.72 / 160)))
    skin = np.ascontiguousarray(pixels[window])
    pixels[window] = cv2.blendLinear(skin, coat, np.float32(1) - weight, weight)


_CROWS_FEET = [line for k in (-1.0, 1.0) for line in mirrored([[52.0, 1.0 + 3 * k], [61.0, 1.0 + 7 * k]])]
_FOREHEAD = [ink(np.array([[-34.0, v + 3], [-14.0, v], [14.0, v], [34.0, v + 3]])) for v in (-40.0, -49.5, -59.0)]
_FROWN = mirrored([[5.5, -25.0], [4.0, -17.0], [5.0, -10.0]])
_FOLD = np.array([[[17.5 * side, 40.0], [25.0 * side, 50.0], [0.0, 61.0], [0.0, 0.0]] for side in (-1.0, 1.0)])


def _wrinkles(shadows: Shadows, params: FaceParams, features: Features) -> None:
    grin = max(0.0, params.smile)
    folds = _FOLD.copy()
    for fold, (x, y), side in zip(folds, features.uv[[43, 49]].tolist(), (-1.0, 1.0), strict=True):
        fold[2, 0] = x + 6.0 * side
        fold[3] = x + 7.5 * side, y + 9.0
    shadows.stroke(list(ink(folds)), 1 - min(0.45, 0.05 + 0.22 * params.age**2 + 0.28 * grin), 2)
    if grin > 0.4 or params.age > 0.6:
        shadows.stroke(_CROWS_FEET, 1 - min(0.25, 0.12 * grin + 0.1 * params.age))
    raised = max(0.0, *params.brow_lift)
    if params.age > 0.35 or raised > 4:
        shadows.stroke(_FOREHEAD, 1 - min(0.3, 0.22 * params.age**2 + 0.016 * raised))
    if params.brow_frown > 0.3:
        shadows.stroke(_FROWN, 1 - 0.3 * params.brow_frown)


def _hem_shadow(style: fig.Style) -> list[Ink]:
    """The forehead and temples down to the hem of the hair."""
    line = [[azimuth * ARC, hem + 3.0] for azimuth, hem in zip((0.0, 0.5, 0.95, 1.3), style.hem, strict=False)]
    return mirrored([*line, [142.0, line[-1][1]], [142.0, -100.0], [0.0, -100.0]])


_HEM_SHADOWS = {name: _hem_shadow(style) for name, style in fig.STYLES.items() if name != "bald"}
_SIDEBURNS = mirrored([[98.0, -30.0], [112.0, -40.0], [112.0, 24.0], [104.0, 22.0]])


def _hairline(pixels: Image, shadows: Shadows, params: FaceParams) -> None:
    """The hair's shadow on the skin below its hem, and sideburns."""
    if params.hair_style == "bald":
        return
    for half in _HEM_SHADOWS[params.hair_style]:
        shadows.fill([half], 0.6)
    if params.hair_style in ("short", "receding", "curly", "fringe"):
        cv2.fillPoly(pixels, _SIDEBURNS, mixed(params.hair, params.skin, 0.7, 0.2), cv2.LINE_AA, SHIFT)
