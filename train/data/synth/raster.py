"""From grids of vertices to pixels: paint quads back to front, then look every pixel's texture place up.

A quad is painted with its number; an affine map per quad then turns pixels into texture coordinates. So colours come
from one smooth lookup in the atlas, and only the choice of the quad is made per polygon.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Float = NDArray[np.float32]

_SHIFT = 4
_SMALLEST = 0.05
"""Quads of less area (square pixels) are seen edge-on and left out."""


@dataclass(frozen=True)
class Patch:
    """One grid of the head, ready to be painted."""

    turned: Array
    """(R, C, 3) rotated millimetres."""
    screen: Array
    """(R, C, 2) pixels."""
    columns: Array
    """Atlas x of each column."""
    rows: Array
    """Atlas y of each row."""
    shade: Array
    """(R, C, 2): diffuse light and gloss."""
    two_sided: bool = False
    bias: float = 0.0
    """Millimetres by which the patch is taken to be nearer when quads are ordered."""


def normals(turned: Array) -> Array:
    """Unit normals of a grid, pointing towards a camera that sees rows run down and columns to the right."""
    across, down = np.gradient(turned, axis=1), np.gradient(turned, axis=0)
    ax, ay, az = across[..., 0], across[..., 1], across[..., 2]
    bx, by, bz = down[..., 0], down[..., 1], down[..., 2]
    n = np.stack([az * by - ay * bz, ax * bz - az * bx, ay * bx - ax * by], axis=-1)
    return np.asarray(n / (np.sqrt((n**2).sum(-1, keepdims=True)) + 1e-9))


@dataclass(frozen=True)
class Lookup:
    """Where every pixel of a window of the photo finds its colour and light."""

    x0: int
    y0: int
    covered: NDArray[np.uint8]
    atlas_x: Float
    atlas_y: Float
    shade: Float


def rasterise(patches: list[Patch], size: int) -> Lookup:
    """Paint all patches into a size x size photo."""
    corners, depth, facing, table = [], [], [], []
    for patch in patches:
        quad, deep, area, coefficients = _quads(patch)
        corners.append(quad)
        depth.append(deep)
        facing.append(area)
        table.append(coefficients)
    quads, deep, area = np.concatenate(corners), np.concatenate(depth), np.concatenate(facing)
    coefficients = np.concatenate(table)
    low, high = quads.min(axis=1), quads.max(axis=1)
    inside = (high > -1.0).all(axis=1) & (low < size).all(axis=1)
    chosen = np.flatnonzero((area > _SMALLEST) & inside)
    chosen = chosen[np.argsort(-deep[chosen], kind="stable")]
    x0, y0 = (int(max(0, np.floor(low[chosen, k].min()))) for k in (0, 1))
    x1, y1 = (int(min(size, np.ceil(high[chosen, k].max()) + 1)) for k in (0, 1))
    fixed = np.round((quads[chosen] - (x0, y0)) * (1 << _SHIFT)).astype(np.int32)
    numbers = np.zeros((y1 - y0, x1 - x0), np.int32)
    fill = cv2.fillConvexPoly
    for number, polygon in enumerate(fixed, start=1):
        fill(numbers, polygon, number, cv2.LINE_8, _SHIFT)
    rows = np.zeros((len(chosen) + 1, coefficients.shape[1]), np.float32)
    rows[1:] = coefficients[chosen]
    rows[1:, (2, 5, 8, 11)] += rows[1:, (0, 3, 6, 9)] * x0 + rows[1:, (1, 4, 7, 10)] * y0
    values = np.take(rows, numbers, axis=0)
    xs = np.arange(x1 - x0, dtype=np.float32)[None, :]
    ys = np.arange(y1 - y0, dtype=np.float32)[:, None]

    def plane(k: int) -> Float:
        return values[..., k] * xs + values[..., k + 1] * ys + values[..., k + 2]

    shade = np.stack([plane(6), plane(9)], axis=-1)
    return Lookup(x0, y0, (numbers > 0).astype(np.uint8), plane(0), plane(3), shade)


def _quads(patch: Patch) -> tuple[Array, Array, Array, Array]:
    """Corners, depth, signed area and the affine maps (atlas x, atlas y, light, gloss) of a patch's quads."""
    s = patch.screen
    a, b, c, d = s[:-1, :-1], s[:-1, 1:], s[1:, 1:], s[1:, :-1]
    quad = np.stack([a, b, c, d], axis=2)
    z = patch.turned[..., 2]
    deep = (z[:-1, :-1] + z[:-1, 1:] + z[1:, 1:] + z[1:, :-1]) * 0.25 - patch.bias
    p = (b + c - a - d) * 0.5
    q = (c + d - a - b) * 0.5
    centre = (a + b + c + d) * 0.25
    det = p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]
    safe = np.where(np.abs(det) < 1e-6, 1e-6, det)
    along = np.stack([q[..., 1], -q[..., 0]], -1) / safe[..., None]
    down = np.stack([-p[..., 1], p[..., 0]], -1) / safe[..., None]
    along = along / np.maximum(np.abs(along).max(-1, keepdims=True), 1.0)
    down = down / np.maximum(np.abs(down).max(-1, keepdims=True), 1.0)
    parts = []
    shape = det.shape
    step_u, step_v = np.diff(patch.columns)[None, :], np.diff(patch.rows)[:, None]
    mid_u = np.broadcast_to((patch.columns[1:] + patch.columns[:-1])[None, :] * 0.5, shape)
    mid_v = np.broadcast_to((patch.rows[1:] + patch.rows[:-1])[:, None] * 0.5, shape)
    zero = np.zeros(shape)
    channels = [(mid_u, step_u + zero, zero), (mid_v, zero, step_v + zero)]
    for k in range(2):
        g = patch.shade[..., k]
        ga, gb, gc, gd = g[:-1, :-1], g[:-1, 1:], g[1:, 1:], g[1:, :-1]
        channels.append(((ga + gb + gc + gd) * 0.25, (gb + gc - ga - gd) * 0.5, (gc + gd - ga - gb) * 0.5))
    for middle, per_p, per_q in channels:
        gx = per_p * along[..., 0] + per_q * down[..., 0]
        gy = per_p * along[..., 1] + per_q * down[..., 1]
        parts += [gx, gy, middle - gx * centre[..., 0] - gy * centre[..., 1]]
    flat = (-1,)
    area = np.abs(det) if patch.two_sided else det
    return quad.reshape(-1, 4, 2), deep.reshape(flat), area.reshape(flat), np.stack(parts, -1).reshape(-1, 12)
