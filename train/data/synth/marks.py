"""The 98 points of a synthetic face: curves of the features in the face plane, and the contour where the head ends.

A feature point is the projection of its 3-D place, also when the place is hidden. A contour point is looked for along a
short path from the jaw edge towards the middle of the face: it is where that path reaches farthest out in the picture.
So the near side keeps the jaw edge, and the far side follows the visible outline of the cheek, as people annotate it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.data.synth.camera import Points, perspective, rotate, rotation
from train.data.synth.head import TEMPLATE, Places, face_vertices, to_uv
from train.data.synth.params import HEM_COLUMNS, SHAPE_NAMES, FaceParams

Array = NDArray[np.float64]
# ---- contour -------------------------------------------------------------------------------------------------------

_JAW_U = (104.0, 104.5, 104.5, 104.0, 103.5, 102.5, 101.0, 98.0, 92.5, 83.0, 70.0, 56.0, 42.0, 30.0, 19.0, 9.5, 0.0)
_JAW_V = (-2.5, 6.8, 16.0, 25.2, 34.4, 43.5, 52.4, 61.0, 69.4, 77.3, 84.6, 91.4, 97.6, 103.0, 107.5, 110.5, 111.5)
_STEPS = 16
_EACH = np.arange(33)


def _contour_paths() -> tuple[Places, Array]:
    """For each of the 33 contour points a path of places, jaw edge first, and its outward direction."""
    u = np.array([-a for a in _JAW_U] + list(reversed(_JAW_U[:-1])))
    v = np.array(_JAW_V + tuple(reversed(_JAW_V[:-1])))
    lower = np.clip((v - 55.0) / 56.0, 0.0, 1.0)
    inner_u = np.sign(u) * np.minimum(np.abs(u) * 0.9, np.interp(v, (-5.0, 20.0, 40.0, 55.0), (20.0, 20.0, 19.0, 14.0)))
    inner_v = v - 26.0 * lower**1.5
    steps = np.linspace(0.0, 1.0, _STEPS)[None, :]
    uv = np.stack([u[:, None] + (inner_u - u)[:, None] * steps, v[:, None] + (inner_v - v)[:, None] * steps], axis=-1)
    middle = np.array([0.0, 20.0])
    front = Places.at(np.stack([u, v], -1)).on(TEMPLATE)[:, :2] - middle
    front[:, 1] = np.maximum(front[:, 1] - 20.0, 0.0) * 1.35
    return Places.at(uv), front / np.sqrt((front**2).sum(-1, keepdims=True))


_PATHS, _OUTWARD = _contour_paths()


def contour(flat: Array, up: tuple[float, float]) -> tuple[Array, Array]:
    """The 33 contour points of a face mask projected to (rows, columns, 2), and how far along its path each lies.

    `up` is where the head's y axis points in the picture.
    """
    path = _PATHS.on(flat)
    norm = math.hypot(*up)
    c, s = (up[1] / norm, -up[0] / norm) if norm > 1e-6 else (1.0, 0.0)
    x = c * _OUTWARD[:, :1] - s * _OUTWARD[:, 1:]
    y = s * _OUTWARD[:, :1] + c * _OUTWARD[:, 1:]
    reach = path[..., 0] * x + path[..., 1] * y
    at = np.minimum(np.maximum(reach.argmax(axis=1), 1), _STEPS - 2)
    before, here, after = reach[_EACH, at - 1], reach[_EACH, at], reach[_EACH, at + 1]
    bend = np.minimum(before - 2 * here + after, -1e-9)
    along = at + np.minimum(np.maximum(0.5 * (before - after) / bend, -1.0), 1.0)
    return _between(path, along), along


def _between(path: Array, along: Array) -> Array:
    """The place on each path at a broken step number."""
    low = np.minimum(along.astype(np.intp), _STEPS - 2)
    share = (along - low)[:, None]
    return np.asarray(path[_EACH, low] * (1 - share) + path[_EACH, low + 1] * share)


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
_BROW_TOP = np.array([-12.6, -20.8, -23.0, -21.8, -18.6])
_BROW_LOW = np.array([-13.6, -15.8, -15.4, -12.8])
_EYE_X = np.array([-13.8, -7.6, 0.0, 7.6, 13.8])
_EYE_UP = np.array([0.6, 4.4, 5.6, 4.4, -0.6])
_EYE_DOWN = np.array([3.0, 4.4, 3.4])
_EYE_SINK = np.array([1.2, 2.0, 1.4])
_MOUTH_X = np.array([-27.0, -17.0, -6.0, 0.0, 6.0, 17.0, 27.0])
_MOUTH_SIGN = np.sign(_MOUTH_X)
_CORNER = (_MOUTH_X / 27.0) ** 2
_SEAM = 63.2 + np.array([0.4, 0.2, -0.3, 0.2, -0.3, 0.2, 0.4])
_GAPE = np.array([0.0, 0.72, 0.97, 1.0, 0.97, 0.72, 0.0])
"""How far each of the seven columns of the mouth opens."""
_LIP_UPPER = np.array([0.0, 4.5, 6.0, 5.4, 6.0, 4.5, 0.0])
_LIP_LOWER = np.array([0.0, 5.4, 8.4, 9.2, 8.4, 5.4, 0.0])
_LOWER_X = np.array([20.6, 11.2, 0.0, -11.2, -20.6])
_INNER_X = np.array([-24.8, -13.4, 0.0, 13.4, 24.8])
_INNER = np.stack([np.interp([0.0, 1.4, 3.0, 4.6, 6.0], np.arange(7), row) for row in np.eye(7)], axis=1)


_BROW_INWARD = (_BROW_X + 55.0) / 42.0
_BROW_ARCH = -2.2 * np.sin(np.pi * _BROW_INWARD**0.8)
_BROW_DROP = 5.5 * _BROW_INWARD**2 - 1.0
_BROW_THICK = _BROW_LOW - _BROW_TOP[1:]
_BROW_RIGHT = [4, 3, 2, 1, 0, 8, 7, 6, 5]
_EYE_RIGHT = [4, 3, 2, 1, 0, 7, 6, 5]
_MIRROR = np.array([-1.0, 1.0])


def _brows(params: FaceParams) -> Array:
    """18 points: top from image left to right, then back below; both brows."""
    top = _BROW_TOP + params.brow_arch * _BROW_ARCH + params.brow_frown * _BROW_DROP
    x = _BROW_X + (params.brow_frown * 2.5) * _BROW_INWARD - 0.6 * params.eye_gap
    curve = np.empty((2, 9, 2))
    curve[:, :5, 0], curve[:, 5:, 0] = x, x[:0:-1]
    curve[:, :5, 1], curve[:, 5:, 1] = top, (top[1:] + _BROW_THICK * params.brow_thick)[::-1]
    curve[..., 1] -= np.array(params.brow_lift)[:, None]
    return np.concatenate([curve[0], curve[1, _BROW_RIGHT] * _MIRROR])


def _eyes(params: FaceParams) -> tuple[Array, Array]:
    """16 lid points (upper lid from image left to right, lower lid back) and the two pupils."""
    ring, pupils = np.empty((2, 8, 2)), np.empty((2, 2))
    tall, width = params.eye_height * params.eye_size, params.eye_size
    centre = -31.2 - params.eye_gap
    for k, opening in enumerate(params.eye_open):
        close = max(0.0, 1.0 - opening)
        squeeze = tall * (1.0 - 0.35 * max(0.0, params.smile - 0.4) - 0.25 * close)
        low = _EYE_DOWN * squeeze
        up = np.maximum(_EYE_UP[1:4] * (tall * opening) - close * _EYE_SINK, 0.5 - low[::-1])
        ring[k, :5, 0], ring[k, 5:, 0] = _EYE_X * width, _EYE_X[3:0:-1] * width
        ring[k, 0, 1], ring[k, 1:4, 1], ring[k, 4, 1], ring[k, 5:, 1] = -_EYE_UP[0], -up, -_EYE_UP[4], low
        wide = min(opening, 1.0)
        pupils[k, 0] = centre + 4.2 * params.gaze[0] * (1.0 if k == 0 else -1.0)
        pupils[k, 1] = 0.2 + (2.4 * params.gaze[1] - 0.6) * wide + (float(low[1]) - float(up[1])) * 0.5 * (1.0 - wide)
    ring[..., 1] += ring[..., 0] * params.eye_tilt + 0.2
    ring[..., 0] += centre
    pupils[1] *= _MIRROR
    return np.concatenate([ring[0], ring[1, _EYE_RIGHT] * _MIRROR]), pupils


def _mouth(params: FaceParams) -> Array:
    """Twelve outer and eight inner lip points in frontal millimetres."""
    pucker, gape = params.pucker, params.mouth_open * 0.72
    width = (1.0 + params.mouth_width / 27.0) * (1.0 + 0.20 * params.smile - 0.36 * pucker - 0.006 * params.mouth_open)
    plump = 1.0 + 0.25 * pucker - 0.22 * max(0.0, params.smile)
    lift = _CORNER * (0.3 * gape - 6.0 * params.smile) + (3.5 * params.smirk) * _CORNER * _MOUTH_SIGN
    seam = _SEAM + lift + params.mouth_shift
    top, low = seam - (0.12 * gape) * _GAPE, seam + gape * _GAPE
    points = np.empty((20, 2))
    points[:7, 0] = _MOUTH_X
    points[:7, 1] = top - _LIP_UPPER * (params.lip_upper * plump)
    points[7:12, 0] = _LOWER_X
    points[7:12, 1] = (low + _LIP_LOWER * (params.lip_lower * plump))[5:0:-1]
    points[12:17, 0] = _INNER_X
    points[17:, 0] = _INNER_X[3:0:-1]
    points[12:17, 1] = _inner(top)
    points[17:, 1] = _inner(low)[3:0:-1] + 0.5
    points[:, 0] *= width
    return points


def _inner(columns: Array) -> Array:
    """Heights of the five inner lip columns between the seven outer ones."""
    return np.asarray(np.einsum("ij,j->i", _INNER, columns))


_NOSE = np.array(
    [[0, -0.4], [0, 12.3], [0, 24.9], [0, 37.0], [-14.8, 42.8], [-7.4, 45.0], [0, 46.4], [7.4, 45.0], [14.8, 42.8]]
)


NOSE_PLACES: Array = to_uv(_NOSE)
"""Points 51..59 in the face plane; a nose varies by the head's shape alone."""


def features(params: FaceParams) -> Features:
    """All feature points of a face in its (u, v) plane."""
    eyes, pupils = _eyes(params)
    xy = np.concatenate([_brows(params), _NOSE, eyes, _mouth(params), pupils])
    return Features(to_uv(xy), 5.9 * params.eye_size**0.5, np.asarray(params.eye_open))


@dataclass(frozen=True)
class Marks:
    """A face's points before they are placed in the photo."""

    flat: Array
    """(98, 2) projected millimetres around the head's origin."""
    vertices: Array
    """The face mask in head millimetres."""
    features: Features
    turn: Array
    """Rotation of the head, (3, 3)."""
    places: Places
    """Where the points 33..97 sit on the mask."""
    along: Array
    """Where the points 0..32 sit on their paths."""

    @property
    def solid(self) -> Array:
        """(98, 3) head millimetres."""
        return np.concatenate([_between(_PATHS.on(self.vertices), self.along), self.places.on(self.vertices)])


def mark(params: FaceParams) -> Marks:
    """Shape the head, place its features and project the 98 points."""
    vertices = face_vertices(params)
    turn = rotation(params.angles)
    flat = perspective(rotate(vertices, turn), params.distance)
    shape = features(params)
    places = Places.at(shape.uv)
    outline, along = contour(flat, (float(turn[0, 1]), float(turn[1, 1])))
    return Marks(np.concatenate([outline, places.on(flat)]), vertices, shape, turn, places, along)


def mean_face_3d() -> Points:
    """The 98 points of the mean face, unturned, in head millimetres (axes in `camera`): (98, 3).

    Left and right mirror each other under the layout's flip permutation.

    >>> mean_face_3d().shape
    (98, 3)
    """
    return mark(neutral()).solid


def neutral(angles: Sequence[float] = (0.0, 0.0, 0.0), distance: float = math.inf) -> FaceParams:
    """The mean face: no expression, average shape, far camera."""
    yaw, pitch, roll = (float(a) for a in angles)
    grey = (128.0, 128.0, 128.0)
    return FaceParams(
        angles=(yaw, pitch, roll),
        distance=distance,
        fill=0.52,
        shift=(0.0, 0.0),
        shape=np.zeros(len(SHAPE_NAMES)),
        eye_gap=0.0,
        eye_size=1.0,
        eye_height=1.0,
        eye_tilt=0.0,
        eye_open=(1.0, 1.0),
        gaze=(0.0, 0.0),
        brow_lift=(0.0, 0.0),
        brow_frown=0.0,
        brow_thick=1.0,
        brow_arch=0.0,
        mouth_width=0.0,
        mouth_shift=0.0,
        lip_upper=1.0,
        lip_lower=1.0,
        mouth_open=0.0,
        smile=0.0,
        smirk=0.0,
        pucker=0.0,
        skin=(118.0, 152.0, 204.0),
        iris=(40.0, 70.0, 100.0),
        hair=(26.0, 38.0, 58.0),
        hair_style="short",
        hair_volume=0.5,
        hair_hem=np.zeros(HEM_COLUMNS),
        hair_part=0.0,
        beard=0.0,
        moustache=0.0,
        age=0.2,
        freckles=0.0,
        lipstick=0.0,
        lipstick_colour=grey,
        eye_shadow=0.0,
        eye_shadow_colour=grey,
        blush=0.0,
        liner=0.0,
        light=(0.2, -0.4, -0.89),
        ambient=0.6,
        lamp=0.5,
        tint=(1.0, 1.0, 1.0),
        exposure=1.0,
        contrast=1.0,
        gloss=0.1,
        occluder="none",
        blur="none",
        blur_amount=0.0,
        noise=0.0,
        attributes=(False,) * 6,
    )
