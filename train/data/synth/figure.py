"""The whole head as one sheet of vertices: face mask, hair shell, neck and both ears, row block under row block.

One sheet means one pass of arithmetic for everything: turning, normals, light, and the affine map of every quad.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.data.synth.camera import rotate
from train.data.synth.head import COLUMNS, ROWS
from train.data.synth.params import SHAPE_NAMES, FaceParams

Array = NDArray[np.float64]
Float = NDArray[np.float32]

WIDE = len(COLUMNS)
"""Columns of every block."""
FACE = slice(0, len(ROWS))
HAIR = slice(FACE.stop, FACE.stop + 8)
NECK = slice(HAIR.stop, HAIR.stop + 5)
EARS = slice(NECK.stop, NECK.stop + 3)
TALL = EARS.stop
_ROUND = 9
LEFT_EAR, RIGHT_EAR = slice(0, _ROUND), slice(WIDE - _ROUND, WIDE)

# Where each block is painted in the atlas, in texels.
LEFT, TOP = float(COLUMNS[0]), float(ROWS[0])
FACE_WIDTH, FACE_HEIGHT = int(COLUMNS[-1] - LEFT) + 1, int(ROWS[-1] - TOP) + 1
SIDE_AT, SIDE_WIDTH = FACE_WIDTH + 3, 111
HAIR_TOP, HAIR_HEIGHT = 0, 120
NECK_TOP, NECK_HEIGHT = 124, 60
EAR_TOP, EAR_HEIGHT, EAR_WIDTH = 188, 43, 54
ATLAS_WIDTH, ATLAS_HEIGHT = 400, 232
"""Multiples of four, so that the light and shadow pictures fit."""

_AROUND: Array = np.linspace(-np.pi, np.pi, WIDE)
_NECK_DOWN: Array = np.array([15.0, 65.0, 108.0, 152.0, 215.0])
_EAR_OUT: Array = np.array([0.0, 0.55, 1.0])
_EAR_ROUND: Array = np.linspace(0.0, 2 * np.pi, _ROUND)


def _atlas_places() -> Array:
    """Atlas texel of every vertex, (TALL, WIDE, 2)."""
    xy = np.zeros((TALL, WIDE, 2))
    xy[FACE, :, 0], xy[FACE, :, 1] = COLUMNS - LEFT, (ROWS - TOP)[:, None]
    across = SIDE_AT + 1 + (SIDE_WIDTH - 3) * np.linspace(0, 1, WIDE)
    for block, top, tall in ((HAIR, HAIR_TOP, HAIR_HEIGHT), (NECK, NECK_TOP, NECK_HEIGHT)):
        xy[block, :, 0] = across
        xy[block, :, 1] = (top + 1 + (tall - 3) * np.linspace(0, 1, block.stop - block.start))[:, None]
    for block, left in ((LEFT_EAR, SIDE_AT), (RIGHT_EAR, SIDE_AT + EAR_WIDTH + 2)):
        xy[EARS, block, 0] = left + EAR_WIDTH / 2 + (EAR_WIDTH / 2 - 2) * _EAR_OUT[:, None] * np.cos(_EAR_ROUND)
        xy[EARS, block, 1] = EAR_TOP + EAR_HEIGHT / 2 + (EAR_HEIGHT / 2 - 2) * _EAR_OUT[:, None] * np.sin(_EAR_ROUND)
    return xy


ATLAS_PLACES: Array = _atlas_places()


def light_places() -> tuple[Float, Float]:
    """For each pixel of the atlas at quarter size, the sheet's (column, row) whose light it gets."""
    x, y = np.meshgrid(np.arange(ATLAS_WIDTH // 4) * 4 + 1.5, np.arange(ATLAS_HEIGHT // 4) * 4 + 1.5)
    column = np.asarray(np.interp(x, COLUMNS - LEFT, np.arange(WIDE)))
    row = np.asarray(np.interp(y, ROWS - TOP, np.arange(len(ROWS))))
    beside = x >= FACE_WIDTH + 1
    share = np.clip((x - SIDE_AT - 1) / (SIDE_WIDTH - 3), 0, 1) * (WIDE - 1)
    for block, top, tall in ((HAIR, HAIR_TOP, HAIR_HEIGHT), (NECK, NECK_TOP, NECK_HEIGHT)):
        here = beside & (y >= top - 2) & (y < top + tall + 2)
        steps = block.stop - block.start - 1
        column = np.where(here, share, column)
        row = np.where(here, block.start + np.clip((y - top - 1) / (tall - 3), 0, 1) * steps, row)
    for block, left in ((LEFT_EAR, SIDE_AT), (RIGHT_EAR, SIDE_AT + EAR_WIDTH + 2)):
        here = beside & (y >= EAR_TOP - 2) & (x >= left - 2) & (x < left + EAR_WIDTH + 1)
        dx, dy = (x - left - EAR_WIDTH / 2) / (EAR_WIDTH / 2 - 2), (y - EAR_TOP - EAR_HEIGHT / 2) / (EAR_HEIGHT / 2 - 2)
        turn = np.mod(np.arctan2(dy, dx), 2 * np.pi) / (2 * np.pi) * (_ROUND - 1)
        column = np.where(here, block.start + turn, column)
        row = np.where(here, EARS.start + np.clip(np.hypot(dx, dy), 0, 1) * 2, row)
    return column.astype(np.float32), row.astype(np.float32)


def _neighbours() -> tuple[NDArray[np.intp], ...]:
    """Flat indices of the vertices before and after along columns and rows, inside the same block."""
    row, column = np.mgrid[0:TALL, 0:WIDE]
    blocks = np.zeros((TALL, WIDE), int)
    for number, (rows, columns) in enumerate(
        [(HAIR, slice(None)), (NECK, slice(None)), (EARS, slice(None)), (EARS, LEFT_EAR), (EARS, RIGHT_EAR)],
        start=1,
    ):
        blocks[rows, columns] = number
    result = []
    for dr, dc in ((0, -1), (0, 1), (-1, 0), (1, 0)):
        r, c = np.clip(row + dr, 0, TALL - 1), np.clip(column + dc, 0, WIDE - 1)
        same = blocks[r, c] == blocks
        result.append(np.where(same, r * WIDE + c, row * WIDE + column).ravel())
    return tuple(result)


_BEFORE, _AFTER, _ABOVE, _BELOW = _neighbours()


@dataclass(frozen=True)
class Style:
    """A hair cut: how far down it reaches at seven azimuths from front to back, and how thick it stands."""

    hem: tuple[float, ...]
    thick: float
    hanging: bool
    taper: float


_HEM_AT = (0.0, 0.5, 0.95, 1.3, 1.65, 2.2, np.pi)
STYLES = {
    "bald": Style((-70, -64, -30, 10, 24, 34, 38), 0.4, False, 0.06),
    "short": Style((-67, -65, -50, -14, 4, 30, 45), 6.5, False, 0.10),
    "receding": Style((-86, -92, -62, -14, 4, 30, 45), 4.5, False, 0.10),
    "fringe": Style((-31, -33, -28, 4, 34, 55, 60), 9.0, True, 0.06),
    "long": Style((-70, -64, -44, 44, 150, 170, 175), 9.5, True, -0.02),
    "bob": Style((-62, -56, -34, 34, 84, 95, 95), 11.0, True, -0.02),
    "curly": Style((-60, -60, -46, 4, 40, 60, 66), 18.0, False, 0.0),
    "hat": Style((-46, -46, -44, -36, -30, -24, -20), 13.0, True, 0.02),
}


@dataclass(frozen=True)
class Quads:
    """What is known of the sheet's quads under a hair style before any face is drawn; flat, row by row."""

    real: NDArray[np.bool_]
    """False between blocks and where the hair always hides the face."""
    two_sided: NDArray[np.bool_]
    """Ears, and lower hair whose inner side can be seen."""
    nearer: Float
    """Millimetres by which a quad is taken to be nearer when quads are ordered."""
    left_ear: NDArray[np.bool_]
    right_ear: NDArray[np.bool_]


def _quads(style: Style) -> Quads:
    real, two_sided = np.ones((TALL - 1, WIDE - 1), bool), np.zeros((TALL - 1, WIDE - 1), bool)
    left, right = two_sided.copy(), two_sided.copy()
    for block in (FACE, HAIR, NECK):
        real[block.stop - 1] = False
    real[EARS.start :, LEFT_EAR.stop - 1 : RIGHT_EAR.start] = False
    left[EARS.start :, : LEFT_EAR.stop - 1], right[EARS.start :, RIGHT_EAR.start :] = True, True
    if style.thick > 1.0:
        real[FACE][: int((ROWS[1:] < min(style.hem[:2]) - 18.0).sum())] = False
    two_sided[EARS.start :] = True
    if style.hanging:
        two_sided[HAIR.start + 3 : HAIR.stop - 1] = True
    nearer = np.zeros(real.shape, np.float32)
    nearer[HAIR.start : HAIR.stop - 1] = 14.0
    nearer[NECK.start : NECK.stop - 1] = -14.0
    nearer[EARS.start :] = 8.0
    return Quads(real.ravel(), two_sided.ravel(), nearer.ravel(), left.ravel(), right.ravel())


QUADS = {name: _quads(style) for name, style in STYLES.items()}


_SIN, _COS, _WAVE = np.sin(_AROUND), np.cos(_AROUND), np.cos(_AROUND * 9.0)
_PART = 9.0 * np.sin(_AROUND * 2)
_HEMS = {name: np.interp(np.abs(_AROUND), _HEM_AT, style.hem) for name, style in STYLES.items()}
_STEPS = np.array([0.0, 0.22, 0.4, 0.56, 0.7, 0.82, 0.91, 1.0])[:, None]
_THINNED = 1.0 - 0.75 * _STEPS**4 * np.clip((_COS + 0.1) / 0.4, 0.0, 1.0)
"""The hair lies down towards its hem over the forehead."""


def _hair(params: FaceParams, out: Array) -> None:
    """The shell of the hair (or of the bare skull)."""
    style = STYLES[params.hair_style]
    thick = style.thick * (0.7 + 0.6 * params.hair_volume) * _THINNED
    bottom = _HEMS[params.hair_style]
    loose = params.hair_style not in ("bald", "hat")
    if loose:
        bottom = bottom + 4.0 * params.hair_hem + params.hair_part * _PART
    rx, ry, rz = (75.0 + thick) * (1.0 + 0.032 * params.shape[0]), 94.0 + thick, 93.0 + thick
    cy, cz = -22.0, 4.0
    lifted = (cy - bottom) / ry
    arc = np.arccos(np.minimum(np.maximum(lifted, 0.0), 1.0)) + np.maximum(bottom - cy, 0.0) / 80.0
    s = _STEPS * arc
    polar = np.minimum(s, np.pi / 2)
    drop = s - polar
    horizontal = np.sin(polar) * (1.0 - style.taper * np.minimum(drop, 1.5))
    if loose:
        horizontal += 0.018 * params.hair_volume * _WAVE * np.sin(s * 3.0)
    out[..., 0] = rx * horizontal * _SIN
    out[..., 1] = cy - ry * np.cos(polar) + drop * 80.0
    out[..., 2] = cz - rz * horizontal * _COS


def _ear() -> Array:
    """The right ear's bowl, its root at x = 0."""
    s, t = _EAR_OUT[:, None], _EAR_ROUND[None, :]
    back = 14.0 * s * np.cos(t) + 13.0
    down = 29.0 * s * np.sin(t) + 17.0 - 4.0 * s * np.cos(t)
    out = 0.50 * (back - 2.0) + 3.5 * s**2 - 2.5
    return np.stack([out + 0 * t, down, back], axis=-1)


_EAR, _MIRROR = _ear(), np.array([-1.0, 1.0, 1.0])


def _neck() -> Array:
    wide = np.interp(_NECK_DOWN, (15, 65, 108, 152, 215), (60.0, 53.0, 50.0, 56.0, 108.0))[:, None]
    deep = np.interp(_NECK_DOWN, (15, 65, 108, 215), (64.0, 57.0, 52.0, 60.0))[:, None]
    x = wide * np.sin(_AROUND)[None, :]
    z = 15.0 - deep * np.cos(_AROUND)[None, :]
    return np.stack([x, np.broadcast_to(_NECK_DOWN[:, None], x.shape), z], axis=-1)


_NECK = _neck()
_JAW_WIDTH = SHAPE_NAMES.index("jaw_width")
_STIFF = np.interp(_NECK_DOWN, (15, 65, 108, 215), (0.0, 0.12, 0.35, 0.9))[:, None, None]
_SHADED = np.ones((TALL, WIDE), np.float32)
_SHADED[NECK] = np.interp(_NECK_DOWN, (15, 65, 108, 152), (0.40, 0.42, 0.60, 0.95))[:, None]
_SHADED[EARS] = np.array([0.75, 0.9, 1.0])[:, None]
_HAIR_SHADED = np.linspace(1.08, 0.86, HAIR.stop - HAIR.start, dtype=np.float32)[:, None]


def sheet(params: FaceParams, face: Array, turn: Array) -> Array:
    """All vertices turned, (TALL, WIDE, 3), given the face mask's in head millimetres."""
    solid = np.zeros((TALL, WIDE, 3))
    solid[FACE] = face
    _hair(params, solid[HAIR])
    solid[NECK] = neck = _NECK * (1.0 + 0.05 * params.shape[_JAW_WIDTH], 1.0, 1.0)
    ear = _EAR + np.array([abs(float(face[5, 1, 0])), 0.0, 0.0])
    solid[EARS, RIGHT_EAR] = ear
    solid[EARS, LEFT_EAR] = ear * _MIRROR
    turned = rotate(solid, turn)
    turned[NECK] += (neck - turned[NECK]) * _STIFF
    return turned


def lighting(params: FaceParams, turned: Array) -> Float:
    """Light on every vertex of the turned sheet, (TALL, WIDE); 1 shows the painted colour as it is."""
    flat = turned.astype(np.float32).reshape(-1, 3)
    a = np.ascontiguousarray((flat[_AFTER] - flat[_BEFORE]).T)
    b = np.ascontiguousarray((flat[_BELOW] - flat[_ABOVE]).T)
    nx, ny, nz = a[2] * b[1] - a[1] * b[2], a[0] * b[2] - a[2] * b[0], a[1] * b[0] - a[0] * b[1]
    scale = 1 / (np.sqrt(nx * nx + ny * ny + nz * nz) + np.float32(1e-9))
    ears = scale[EARS.start * WIDE :]
    ears *= np.where(nz[EARS.start * WIDE :] > 0, np.float32(-1), np.float32(1))
    nx, ny, nz = nx * scale, ny * scale, nz * scale
    lx, ly, lz = (np.float32(v) for v in params.light)
    facing = nx * lx + ny * ly + nz * lz
    length = np.sqrt(2 - 2 * lz) + np.float32(1e-6)
    shine = np.maximum((facing - nz) / length, 0)
    shine *= shine
    shine *= shine
    shine *= shine
    light = np.float32(params.ambient) * (np.float32(0.92) - np.float32(0.2) * ny)
    light += np.float32(params.lamp / 1.25) * np.maximum(facing + np.float32(0.25), 0)
    light += np.float32(params.gloss) * shine * shine
    light = light.reshape(TALL, WIDE) * _SHADED
    if params.hair_style != "bald":
        light[HAIR] *= _HAIR_SHADED
    return np.asarray(light, np.float32)
