"""The parametric head: a mask of the face over its own (u, v) plane, ears, neck and hair, each a grid of vertices.

`u` runs around the head, about one millimetre per unit (u = ARC * azimuth), `v` down the face in millimetres from the
eye line. Everything painted on the face, and every landmark, is a place (u, v) of that plane, so a point lies exactly
where its feature was drawn, whatever the pose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.data.synth.params import SHAPE_NAMES, FaceParams

Array = NDArray[np.float64]

ARC = 82.0
_HALF = (0.0, 5.5, 11.5, 17.5, 28.0, 44.0, 63.0, 84.0, 106.0, 142.0)
COLUMNS: Array = np.array([-u for u in reversed(_HALF[1:])] + list(_HALF))
ROWS: Array = np.array([-92, -64, -42, -26, -12, 0, 12, 23, 31.5, 38, 43.5, 49, 57, 66, 76, 88, 102, 117, 138.0])

_HEIGHTS = (-95.0, -75.0, -60.0, -45.0, -30.0, -20.0, -5.0, 20.0, 45.0, 60.0, 75.0, 90.0, 100.0, 111.0, 150.0)
_FRONT = (58.0, 74.0, 82.5, 90.0, 94.0, 96.0, 93.5, 94.5, 95.0, 96.0, 95.0, 90.5, 91.5, 88.0, 86.0)
_SIDE = (54.0, 63.0, 68.0, 71.5, 73.0, 73.0, 71.5, 69.5, 66.0, 62.0, 57.0, 50.0, 44.0, 38.0, 36.0)
_EDGE_AZIMUTH = (0.0, 0.2, 0.42, 0.68, 0.97, 1.18, 1.36, 1.45, 1.6, 1.9)
_EDGE_HEIGHT = (111.0, 107.5, 101.5, 92.5, 82.0, 72.0, 58.0, 45.0, 40.0, 40.0)


def _smooth(xs: tuple[float, ...], ys: tuple[float, ...], at: Array, width: float) -> Array:
    """Piecewise linear knots, softened by a moving average of the given width."""
    shifts = np.linspace(-1.0, 1.0, 9) * width
    return np.asarray(np.mean([np.interp(at + s, xs, ys) for s in shifts], axis=0))


def _radius(azimuth: Array, height: Array) -> Array:
    front, side = _smooth(_HEIGHTS, _FRONT, height, 9.0), _smooth(_HEIGHTS, _SIDE, height, 9.0)
    return np.asarray(1.0 / np.sqrt((np.sin(azimuth) / side) ** 2 + (np.cos(azimuth) / front) ** 2))


def _bump(u: Array, v: Array, u0: float, v0: float, su: float, sv: float, power: float = 2.0) -> Array:
    """A soft bump at +-u0."""
    du, dv = np.abs((np.abs(u) - u0) / su), np.abs((v - v0) / sv)
    return np.asarray(np.exp(-0.5 * (du**power + dv**power)))


def _ramp(value: Array, low: float, high: float) -> Array:
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3 - 2 * t))


def _nose(u: Array, v: Array) -> Array:
    """How far the nose stands out of the face."""
    ridge = _smooth(
        (-30.0, -12, 0, 8, 16, 24, 31, 36.5, 41, 45, 49, 56), (0, 0.5, 3, 6, 9.5, 13.5, 17.5, 20, 17, 8, 2, 0), v, 2.5
    )
    half = np.interp(v, (-10, 0, 12, 24, 32, 50), (6.0, 6.0, 6.5, 7.5, 9.0, 9.5))
    spread = np.exp(-0.5 * np.abs(u / half) ** 2.2)
    wings = 8.5 * _bump(u, v, 11.5, 38.0, 4.6, 5.5, 2.4)
    return np.asarray(ridge * spread + wings * (1 - 0.55 * spread))


def jaw_edge(u: Array) -> Array:
    """The v at which each meridian turns under the jaw."""
    return _smooth(_EDGE_AZIMUTH, _EDGE_HEIGHT, np.abs(u / ARC), 0.08)


def _template(u: Array, v: Array) -> Array:
    """The mean head's surface, (..., 3)."""
    azimuth = u / ARC
    edge = jaw_edge(u)
    below = v - edge
    fold = np.minimum(4.0 * np.logaddexp(0.0, below / 4.0), 46.0)
    height = np.where(below > 0, edge + 0.30 * fold - 0.30 * 4.0 * np.log(2.0), v)
    relief = (
        -5.5 * _bump(u, v, 31.0, 0.0, 13.0, 9.0)
        + 2.6 * _bump(u, v, 27.0, -19.0, 20.0, 7.0)
        + 3.0 * _bump(u, v, 46.0, 24.0, 15.0, 13.0)
        + 4.0 * _bump(u, v, 0.0, 66.0, 22.0, 10.0)
        - 3.2 * _bump(u, v, 0.0, 86.0, 18.0, 5.5)
        + 3.0 * _bump(u, v, 0.0, 102.0, 14.0, 8.0)
        - 2.0 * _bump(u, v, 44.0, 62.0, 14.0, 18.0)
    )
    radius = _radius(azimuth, np.minimum(height, v)) + relief - 0.95 * np.maximum(fold - 4.0 * np.log(2.0), 0.0)
    radius = np.maximum(radius, 44.0)
    return np.stack([radius * np.sin(azimuth), height, -radius * np.cos(azimuth) - _nose(u, v)], axis=-1)


def _outward(points: Array, amount: Array) -> Array:
    """A displacement away from the head's vertical axis."""
    flat = points * np.array([1.0, 0.0, 1.0])
    return np.asarray(flat / np.sqrt((flat**2).sum(-1, keepdims=True)) * amount[..., None])


def _shape_basis(u: Array, v: Array) -> dict[str, Array]:
    """One displacement field per shape coefficient, at one standard deviation."""
    p = _template(u, v)
    x, y = p[..., 0], p[..., 1]
    zero = np.zeros_like(x)
    nose = _bump(u, v, 0.0, 34.0, 17.0, 13.0, 3.0)
    chin = _bump(u, v, 0.0, 104.0, 26.0, 16.0)

    def move(dx: Array = zero, dy: Array = zero, dz: Array = zero) -> Array:
        return np.stack([dx, dy, dz], axis=-1)

    return {
        "width": move(dx=x * 0.032),
        "length": move(dy=y * 0.035),
        "lower_length": move(dy=_ramp(v, 45.0, 108.0) * 3.4),
        "jaw_width": move(dx=x * 0.055 * _ramp(v, 10.0, 75.0)),
        "cheekbone": _outward(p, 2.2 * _bump(u, v, 50.0, 22.0, 16.0, 15.0)),
        "cheek_full": _outward(p, 3.0 * _bump(u, v, 56.0, 52.0, 22.0, 24.0)),
        "chin_out": move(dz=-2.6 * chin),
        "chin_long": move(dy=2.6 * chin),
        "chin_width": move(dx=x * 0.10 * _bump(u, v, 22.0, 100.0, 18.0, 14.0)),
        "forehead": move(dz=3.0 * _ramp(-v, 20.0, 85.0)),
        "brow_ridge": move(dz=-1.2 * _bump(u, v, 20.0, -17.0, 24.0, 7.0)),
        "eye_depth": move(dz=1.3 * _bump(u, v, 31.0, 0.0, 13.0, 8.0)),
        "nose_length": move(dy=2.3 * _bump(u, v, 0.0, 40.0, 15.0, 14.0)),
        "nose_width": move(dx=np.sign(u) * 1.5 * _bump(u, v, 13.0, 39.0, 6.0, 9.0)),
        "nose_height": move(dz=-2.2 * nose),
        "nose_bridge": move(dz=-1.6 * _bump(u, v, 0.0, 8.0, 7.0, 12.0)),
        "nose_tip": move(dy=-1.8 * _bump(u, v, 0.0, 37.0, 9.0, 7.0)),
        "lips_out": move(dz=-1.3 * _bump(u, v, 0.0, 67.0, 20.0, 10.0)),
        "jaw_open": move(
            dy=17.0 * _ramp(v, 60.0, 96.0) * _ramp(-np.abs(u), -112.0, -40.0),
            dz=7.0 * _ramp(v, 60.0, 105.0) * _ramp(-np.abs(u), -112.0, -40.0),
        ),
        "smile_cheek": _outward(p, 3.4 * _bump(u, v, 40.0, 32.0, 14.0, 12.0)),
        "pucker": move(dz=-4.5 * _bump(u, v, 0.0, 67.0, 15.0, 10.0)),
    }


_U, _V = np.meshgrid(COLUMNS, ROWS)
TEMPLATE: Array = _template(_U, _V)
BASIS: Array = np.stack([_shape_basis(_U, _V)[name] for name in SHAPE_NAMES])


def face_vertices(params: FaceParams) -> Array:
    """The face mask's vertices (rows, columns, 3) in head millimetres."""
    return np.asarray(TEMPLATE + np.einsum("k,krcd->rcd", params.shape, BASIS))


@dataclass(frozen=True)
class Places:
    """Places of the (u, v) plane as cell corners and weights, to be carried by any vertices."""

    corner: NDArray[np.intp]
    along: Array
    down: Array

    @staticmethod
    def at(uv: Array) -> Places:
        column = np.clip(np.searchsorted(COLUMNS, uv[..., 0], side="right") - 1, 0, len(COLUMNS) - 2)
        row = np.clip(np.searchsorted(ROWS, uv[..., 1], side="right") - 1, 0, len(ROWS) - 2)
        along = (uv[..., 0] - COLUMNS[column]) / (COLUMNS[column + 1] - COLUMNS[column])
        down = (uv[..., 1] - ROWS[row]) / (ROWS[row + 1] - ROWS[row])
        return Places(row * len(COLUMNS) + column, along, down)

    def on(self, vertices: Array) -> Array:
        """The places' positions on a face mask of shape (rows, columns, D): (..., D)."""
        flat = vertices.reshape(-1, vertices.shape[-1])
        width = len(COLUMNS)
        p, q = self.along[..., None], self.down[..., None]
        top = flat[self.corner] * (1 - p) + flat[self.corner + 1] * p
        bottom = flat[self.corner + width] * (1 - p) + flat[self.corner + width + 1] * p
        return np.asarray(top * (1 - q) + bottom * q)


def u_of(x: Array, y: Array) -> Array:
    """The u of frontal millimetres (x, y) on the mean head without its nose."""
    azimuth = np.asarray(x) / 90.0
    for _ in range(4):
        azimuth = np.arcsin(np.clip(x / _radius(azimuth, np.asarray(y)), -0.999, 0.999))
    return np.asarray(azimuth * ARC)


_U_GRID_X: Array = np.linspace(0.0, 69.0, 70)
_U_GRID_Y: Array = np.linspace(-60.0, 130.0, 39)
_U_TABLE: Array = np.stack([u_of(_U_GRID_X, np.full(70, y)) for y in _U_GRID_Y])


def to_uv(xy: Array) -> Array:
    """Frontal millimetres (..., 2) on the mean head -> (u, v); |x| up to 69, by table."""
    x = np.minimum(np.abs(xy[..., 0]), 68.99)
    y = np.clip((xy[..., 1] + 60.0) / 5.0, 0.0, 37.999)
    i, j = x.astype(np.intp), y.astype(np.intp)
    p, q = x - i, y - j
    low = _U_TABLE[j, i] * (1 - p) + _U_TABLE[j, i + 1] * p
    high = _U_TABLE[j + 1, i] * (1 - p) + _U_TABLE[j + 1, i + 1] * p
    return np.stack([np.copysign(low * (1 - q) + high * q, xy[..., 0]), xy[..., 1]], axis=-1)
