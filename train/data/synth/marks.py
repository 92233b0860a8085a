"""The 98 points of a synthetic face: curves of the features in the face plane, and the contour where the head ends.

A feature point is the projection of its 3-D place, also when the place is hidden. A contour point is looked for along a
short path from the jaw edge towards the middle of the face: it is where that path reaches farthest out in the picture.
So the near side keeps the jaw edge, and the far side follows the visible outline of the cheek, as people annotate it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.data.synth.camera import Points, perspective, rotate, rotation
from train.data.synth.head import ARC, TEMPLATE, Places, face_vertices, to_uv
from train.data.synth.params import HEM_COLUMNS, SHAPE_NAMES, FaceParams

Array = NDArray[np.float64]
SIDES = (-1.0, 1.0)
"""Image left and image right of an unturned face."""

# ---- contour -------------------------------------------------------------------------------------------------------

_JAW_U = (104.0, 104.5, 104.5, 104.0, 103.5, 102.5, 101.0, 98.0, 92.5, 83.0, 70.0, 56.0, 42.0, 30.0, 19.0, 9.5, 0.0)
_JAW_V = (-2.5, 6.8, 16.0, 25.2, 34.4, 43.5, 52.4, 61.0, 69.4, 77.3, 84.6, 91.4, 97.6, 103.0, 107.5, 110.5, 111.5)
_STEPS = 16


def _contour_paths() -> tuple[Places, Array]:
    """For each of the 33 contour points a path of places, jaw edge first, and its outward direction."""
    u = np.array([-a for a in _JAW_U] + [a for a in reversed(_JAW_U[:-1])])
    v = np.array(_JAW_V + tuple(reversed(_JAW_V[:-1])))
    lower = np.clip((v - 55.0) / 56.0, 0.0, 1.0)
    inner_u = np.sign(u) * np.minimum(np.abs(u) * 0.9, 34.0)
    inner_v = v - 26.0 * lower**1.5
    steps = np.linspace(0.0, 1.0, _STEPS)[None, :]
    uv = np.stack([u[:, None] + (inner_u - u)[:, None] * steps, v[:, None] + (inner_v - v)[:, None] * steps], axis=-1)
    middle = np.array([0.0, 20.0])
    front = Places.at(np.stack([u, v], -1)).on(TEMPLATE)[:, :2] - middle
    front[:, 1] = np.maximum(front[:, 1] - 20.0, 0.0) * 1.35
    return Places.at(uv), front / np.sqrt((front**2).sum(-1, keepdims=True))


_PATHS, _OUTWARD = _contour_paths()


def contour(vertices: Array, turn: Array, distance: float) -> tuple[Array, Array]:
    """The 33 contour points of a turned face: projected millimetres (33, 2) and head coordinates (33, 3)."""
    path = _PATHS.on(vertices)
    flat = perspective(rotate(path, turn), distance)
    up = np.array([turn[0, 1], turn[1, 1]])
    norm = np.sqrt((up**2).sum())
    c, s = (up[1] / norm, -up[0] / norm) if norm > 1e-6 else (1.0, 0.0)
    outward = np.stack([c * _OUTWARD[:, 0] - s * _OUTWARD[:, 1], s * _OUTWARD[:, 0] + c * _OUTWARD[:, 1]], -1)
    reach = flat[..., 0] * outward[:, None, 0] + flat[..., 1] * outward[:, None, 1]
    best = reach.argmax(axis=1)
    rows = np.arange(33)
    at = np.clip(best, 1, _STEPS - 2)
    before, here, after = reach[rows, at - 1], reach[rows, at], reach[rows, at + 1]
    curve = before - 2 * here + after
    offset = np.clip(
        np.where(curve < -1e-9, 0.5 * (before - after) / np.where(curve < -1e-9, curve, -1.0), 0.0), -1.0, 1.0
    )
    place = np.where((best == 0) & (offset <= -1.0), 0.0, at + offset)
    low = np.clip(place.astype(np.intp), 0, _STEPS - 2)
    share = (place - low)[:, None]
    return (
        flat[rows, low] * (1 - share) + flat[rows, low + 1] * share,
        path[rows, low] * (1 - share) + path[rows, low + 1] * share,
    )


# ---- features ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Features:
    """The feature points 33..97 in the face plane, (65, 2), and the sizes that painting needs."""

    uv: Array
    iris_radius: float
    lids: Array
    """Open share of both eyes."""

    def line(self, first: int, stop: int) -> Array:
        """Points first..stop-1 in WFLW numbers."""
        return self.uv[first - 33 : stop - 33]


_BROW_X = np.array([-55.0, -45.5, -35.0, -24.0, -13.0])
_BROW_TOP = np.array([-13.0, -20.8, -23.2, -22.2, -18.8])
_BROW_LOW = np.array([-12.2, -15.6, -17.0, -15.2])
_EYE_X = np.array([-13.8, -7.6, 0.0, 7.6, 13.8])
_EYE_UP = np.array([0.6, 4.4, 5.6, 4.4, -0.6])
_EYE_DOWN = np.array([3.0, 4.4, 3.4])
_MOUTH_X = np.array([-27.0, -17.0, -6.0, 0.0, 6.0, 17.0, 27.0])


def _brow(params: FaceParams, side: float, which: int) -> Array:
    """Nine points outer corner first along the top, then back, for image left; the caller orders image right."""
    lift, frown = params.brow_lift[which], params.brow_frown
    inward = (_BROW_X + 55.0) / 42.0
    arch = -params.brow_arch * 2.2 * np.sin(np.pi * inward**0.8)
    drop = frown * (5.5 * inward**2 - 1.0)
    top = _BROW_TOP + arch + drop - lift
    thick = (_BROW_LOW - _BROW_TOP[1:]) * params.brow_thick
    low = top[1:] + thick
    xs = _BROW_X + frown * 2.5 * inward + 0.6 * params.eye_gap * -1.0
    upper = np.stack([xs, top], -1)
    lower = np.stack([xs[1:], low], -1)[::-1]
    curve = np.concatenate([upper, lower])
    return curve * np.array([-side, 1.0])


def _eye(params: FaceParams, which: int) -> tuple[Array, Array]:
    """Eight lid points (outer corner, upper lid to the inner corner, lower lid back) and the pupil, image left."""
    width, opening = params.eye_size, params.eye_open[which]
    tall = params.eye_height * params.eye_size
    centre = np.array([-31.2 - params.eye_gap, 0.2])
    up = _EYE_UP.copy()
    up[1:4] = _EYE_UP[1:4] * tall * min(opening, 1.5)
    close = max(0.0, 1.0 - opening)
    up[1:4] -= close * np.array([1.2, 2.0, 1.4])
    squeeze = 1.0 - 0.35 * max(0.0, params.smile - 0.4) - 0.25 * close
    down = _EYE_DOWN * tall * squeeze
    up[1:4] = np.maximum(up[1:4], -down[::-1] + 0.5)
    tilt = params.eye_tilt
    top = np.stack([_EYE_X * width, -up], -1)
    low = np.stack([_EYE_X[3:0:-1] * width, down], -1)
    ring = np.concatenate([top, low])
    ring[:, 1] += ring[:, 0] * tilt
    gap = 2.4 * params.gaze[1] * min(opening, 1.0)
    middle = -up[2] * 0.5 + down[1] * 0.5
    pupil = np.array([4.2 * params.gaze[0], (-0.6 + gap) * min(opening, 1.0) + middle * max(0.0, 1.0 - opening)])
    return ring + centre, pupil + centre


def _mouth(params: FaceParams) -> Array:
    """Twelve outer and eight inner lip points in frontal millimetres."""
    pucker = params.pucker
    width = (1.0 + params.mouth_width / 27.0) * (1.0 + 0.20 * params.smile - 0.36 * pucker - 0.006 * params.mouth_open)
    gape = params.mouth_open * 0.72
    plump = 1.0 + 0.25 * pucker - 0.22 * max(0.0, params.smile)
    upper = np.array([0.0, 4.5, 6.0, 5.4, 6.0, 4.5, 0.0]) * params.lip_upper * plump
    lower = np.array([0.0, 5.4, 8.4, 9.2, 8.4, 5.4, 0.0]) * params.lip_lower * plump
    spread = np.array([0.0, 0.72, 0.97, 1.0, 0.97, 0.72, 0.0])
    line = 63.2 + params.mouth_shift
    corner = (np.abs(_MOUTH_X) / 27.0) ** 2
    lift = -params.smile * 6.0 * corner + params.smirk * 3.5 * corner * np.sign(_MOUTH_X) + 0.3 * gape * corner
    seam = line + lift + np.array([0.4, 0.2, -0.3, 0.2, -0.3, 0.2, 0.4])
    rise = 0.12 * gape * spread
    top_in, low_in = seam - rise, seam + gape * spread
    xs = _MOUTH_X * width
    outer_top = np.stack([xs, top_in - upper], -1)
    low_order = [5, 4, 3, 2, 1]
    low_x = np.array([0.0, -20.6, -11.2, 0.0, 11.2, 20.6, 0.0]) * width
    outer_low = np.stack([low_x, low_in + lower], -1)[low_order]
    inner_x = np.array([-24.8, -13.4, 0.0, 13.4, 24.8]) * width
    at = np.array([0.0, 1.4, 3.0, 4.6, 6.0])
    inner_top = np.stack([inner_x, np.interp(at, np.arange(7), top_in)], -1)
    inner_low = np.stack([inner_x[3:0:-1], np.interp(at[3:0:-1], np.arange(7), low_in) + 0.5], -1)
    return np.concatenate([outer_top, outer_low, inner_top, inner_low])


_NOSE = np.array(
    [[0, -0.4], [0, 12.3], [0, 24.9], [0, 37.0], [-14.6, 42.2], [-7.4, 44.6], [0, 46.2], [7.4, 44.6], [14.6, 42.2]]
)
_MIRROR = np.array([-1.0, 1.0])


def features(params: FaceParams) -> Features:
    """All feature points of a face in its (u, v) plane."""
    left_brow, right_brow = _brow(params, -1.0, 0), _brow(params, -1.0, 1) * _MIRROR
    right_brow = right_brow[[4, 3, 2, 1, 0, 8, 7, 6, 5]]
    left_eye, left_pupil = _eye(params, 0)
    right_eye, right_pupil = _eye(params, 1)
    right_eye, right_pupil = right_eye * _MIRROR, right_pupil * _MIRROR
    right_pupil[0] += 8.4 * params.gaze[0]
    right_eye = right_eye[[4, 3, 2, 1, 0, 7, 6, 5]]
    pupils = np.stack([left_pupil, right_pupil])
    xy = np.concatenate([left_brow, right_brow, _NOSE, left_eye, right_eye, _mouth(params), pupils])
    return Features(to_uv(xy), 5.9 * params.eye_size**0.5, np.asarray(params.eye_open))


@dataclass(frozen=True)
class Marks:
    """A face's points before they are placed in the photo."""

    flat: Array
    """(98, 2) projected millimetres around the head's origin."""
    solid: Array
    """(98, 3) head millimetres."""
    vertices: Array
    features: Features
    turn: Array


def mark(params: FaceParams) -> Marks:
    """Shape the head, place its features and project the 98 points."""
    vertices = face_vertices(params)
    turn = rotation(params.angles)
    shape = features(params)
    inner = Places.at(shape.uv).on(vertices)
    flat = perspective(rotate(inner, turn), params.distance)
    outline, outline_solid = contour(vertices, turn, params.distance)
    return Marks(np.concatenate([outline, flat]), np.concatenate([outline_solid, inner]), vertices, shape, turn)


def mean_face_3d() -> Points:
    """The 98 points of the mean face, unturned, in head millimetres (axes in `camera`): (98, 3).

    Left and right mirror each other under the layout's flip permutation.

    >>> mean_face_3d().shape
    (98, 3)
    """
    return _mean_marks().solid.copy()


def _mean_marks() -> Marks:
    return mark(neutral())


def neutral(angles: Sequence[float] = (0.0, 0.0, 0.0), distance: float = 1e7) -> FaceParams:
    """The mean face: no expression, average shape, far camera."""
    yaw, pitch, roll = (float(a) for a in angles)
    grey = (128.0, 128.0, 128.0)
    return FaceParams(
        angles=(yaw, pitch, roll), distance=distance, fill=0.52, shift=(0.0, 0.0), shape=np.zeros(len(SHAPE_NAMES)),
        eye_gap=0.0, eye_size=1.0, eye_height=1.0, eye_tilt=0.0, eye_open=(1.0, 1.0), gaze=(0.0, 0.0), brow_lift=(0.0, 0.0),
        brow_frown=0.0, brow_thick=1.0, brow_arch=0.0, mouth_width=0.0, mouth_shift=0.0, lip_upper=1.0, lip_lower=1.0,
        mouth_open=0.0, smile=0.0, smirk=0.0, pucker=0.0, skin=(118.0, 152.0, 204.0), iris=(40.0, 70.0, 100.0),
        hair=(26.0, 38.0, 58.0), hair_style="short", hair_volume=0.5,
        hair_hem=np.zeros(HEM_COLUMNS),
        hair_part=0.0, beard=0.0, moustache=0.0, age=0.2, freckles=0.0,
        lipstick=0.0, lipstick_colour=grey, eye_shadow=0.0, eye_shadow_colour=grey, blush=0.0, liner=0.0,
        light=(0.2, -0.4, -0.89), ambient=0.6, lamp=0.5, tint=(1.0, 1.0, 1.0), exposure=1.0, contrast=1.0, gloss=0.1,
        occluder="none", blur="none", blur_amount=0.0, noise=0.0, attributes=(False,) * 6,
    )  # fmt: skip


__all__ = ["ARC", "Features", "Marks", "features", "mark", "mean_face_3d", "neutral"]
