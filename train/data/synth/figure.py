"""The head as patches in the picture: face mask, hair shell, ears, neck, each lit by its normals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from train.data.synth import atlas
from train.data.synth.camera import rotate
from train.data.synth.head import ARC, COLUMNS, ROWS
from train.data.synth.marks import Marks
from train.data.synth.params import FaceParams
from train.data.synth.raster import Patch, normals

Array = NDArray[np.float64]

_AROUND: Array = np.linspace(-np.pi, np.pi, 25)
_HAIR_ROWS = 9
_NECK_AROUND: Array = np.linspace(-np.pi, np.pi, 15)
_NECK_DOWN: Array = np.array([62.0, 96.0, 128.0, 175.0, 240.0])


def hem(params: FaceParams) -> Array:
    """How far down (head millimetres) the hair reaches at each azimuth of the shell."""
    a = np.abs(_AROUND)
    styles = {
        "bald": ((-70, -60, -20, 10, 20, 30, 30), 0),
        "short": ((-68, -66, -52, -8, 4, 30, 45), 0),
        "receding": ((-86, -90, -60, -8, 4, 30, 45), 0),
        "fringe": ((-34, -36, -30, 0, 30, 55, 60), 0),
        "long": ((-66, -66, -50, 40, 150, 170, 175), 1),
        "bob": ((-58, -56, -38, 30, 82, 95, 95), 1),
        "curly": ((-62, -62, -48, 4, 40, 60, 66), 0),
        "hat": ((-44, -44, -42, -36, -30, -24, -20), 0),
    }
    heights, _ = styles[params.hair_style]
    knots = (0.0, 0.5, 0.95, 1.3, 1.65, 2.2, np.pi)
    return np.asarray(np.interp(a, knots, heights))


def _hair(params: FaceParams) -> Array:
    thick = {
        "bald": 0.5,
        "short": 6.0,
        "receding": 5.0,
        "fringe": 9.0,
        "long": 9.0,
        "bob": 11.0,
        "curly": 17.0,
        "hat": 12.0,
    }
    t = thick[params.hair_style] * (0.7 + 0.6 * params.hair_volume) if params.hair_style != "bald" else 0.5
    bottom = hem(params)
    rx, ry, rz = 75.0 + t, 95.0 + t, 94.0 + t
    cy, cz = -22.0, 2.0
    arc_end = np.where(bottom < cy, np.arccos(np.clip((cy - bottom) / ry, -1, 1)), np.pi / 2)
    hang = np.maximum(bottom - cy, 0.0) / 80.0
    s = np.linspace(0.02, 1.0, _HAIR_ROWS)[:, None] * (arc_end + hang)[None, :]
    polar = np.minimum(s, np.pi / 2)
    drop = np.maximum(s - np.pi / 2, 0.0) * 80.0
    taper = 1.0 - (0.08 if params.hair_style in ("short", "receding", "bald", "hat") else -0.04) * np.minimum(
        drop / 80.0, 1.5
    )
    horizontal = np.sin(polar) * taper
    wave = 1.0 + (0.02 * params.hair_volume if params.hair_style != "bald" else 0.0) * np.cos(_AROUND * 7.0)[
        None, :
    ] * np.sin(s * 3.0)
    x = rx * horizontal * wave * np.sin(_AROUND)[None, :]
    z = cz - rz * horizontal * wave * np.cos(_AROUND)[None, :]
    y = cy - ry * np.cos(polar) + drop
    return np.stack([x, y, z], axis=-1)


def _ear(side: float, params: FaceParams, width_at: float) -> Array:
    """A bowl of 4 x 9 vertices on the side of the head."""
    s = np.linspace(0.0, 1.0, 4)[:, None]
    t = np.linspace(0.0, 2 * np.pi, 11)[None, :]
    back = 15.0 * s * np.cos(t) + 13.0
    down = 31.0 * s * np.sin(t) + 14.0 - 3.0 * s * np.cos(t)
    out = width_at + 1.0 + 0.42 * (back - 2.0) + 3.0 * s**2 - 2.0
    return np.stack([side * out + 0 * t, down, back], axis=-1)


def _neck(marks: Marks) -> Array:
    wide = np.interp(_NECK_DOWN, (62, 128, 175, 240), (50.0, 52.0, 58.0, 95.0))[:, None]
    deep = np.interp(_NECK_DOWN, (62, 240), (50.0, 56.0))[:, None]
    x = wide * np.sin(_NECK_AROUND)[None, :]
    z = 22.0 - deep * np.cos(_NECK_AROUND)[None, :] * 1.0
    y = np.broadcast_to(_NECK_DOWN[:, None], x.shape)
    return np.stack([x, y, z], axis=-1)


def patches(params: FaceParams, marks: Marks, scale: float, centre: Array) -> list[Patch]:
    """All patches, projected with `scale` pixels per millimetre around `centre`."""
    turn = marks.turn

    def flat(turned: Array) -> Array:
        return turned[..., :2] * (params.distance / (params.distance + turned[..., 2:])) * scale + centre

    face = rotate(marks.vertices, turn)
    side_x = float(marks.vertices[9, 2, 0])
    result = [
        Patch(face, flat(face), COLUMNS - atlas.LEFT, ROWS - atlas.TOP, shade(params, normals(face))),
    ]
    hair = rotate(_hair(params), turn)
    normal = normals(hair)
    grow = np.linspace(2, atlas.HEIGHT - 3, _HAIR_ROWS)
    across = atlas.HAIR_AT + 2 + (atlas.HAIR_WIDTH - 5) * (np.arange(25) / 24.0)
    if params.hair_style == "bald":
        across = atlas.SKIN_AT + 2 + (atlas.SKIN_SIDE - 5) * (np.arange(25) / 24.0)
        grow = np.linspace(atlas.SKIN_TOP + 2, atlas.SKIN_TOP + atlas.SKIN_SIDE - 3, _HAIR_ROWS)
    lit = shade(params, normal)
    lit[-1] *= 0.8
    hanging = params.hair_style in ("long", "bob", "fringe", "curly", "hat")
    result.append(Patch(hair, flat(hair), across, grow, lit, hanging, -4.0 if params.hair_style == "bald" else 5.0))
    for side in (-1.0, 1.0):
        ear = rotate(_ear(side, params, abs(side_x)), turn)
        ear_normal = normals(ear)
        if side > 0:
            ear_normal = -ear_normal
        cols = atlas.EAR_AT + 20.0 + 16.0 * np.cos(np.linspace(0, 2 * np.pi, 11))
        rows = np.linspace(34.0, 64.0, 4)
        result.append(Patch(ear, flat(ear), cols, rows, shade(params, ear_normal) * 0.9, True, 0.0))
    body = _neck(marks)
    follow = np.interp(_NECK_DOWN, (62, 130, 240), (1.0, 0.75, 0.15))[:, None, None]
    neck = rotate(body, turn) * follow + body * (1 - follow)
    neck_shade = shade(params, normals(neck)) * np.interp(_NECK_DOWN, (62, 110, 150), (0.45, 0.6, 0.95))[:, None, None]
    skin_columns = atlas.SKIN_AT + 2 + (atlas.SKIN_SIDE - 5) * (np.arange(15) / 14.0)
    skin_rows = np.linspace(atlas.SKIN_TOP + 2, atlas.SKIN_TOP + atlas.SKIN_SIDE - 3, len(_NECK_DOWN))
    result.append(Patch(neck, flat(neck), skin_columns, skin_rows, neck_shade, False, -12.0))
    return result


def shade(params: FaceParams, normal: Array) -> Array:
    """Diffuse light and gloss of normals, (..., 2)."""
    lx, ly, lz = params.light
    facing = normal[..., 0] * lx + normal[..., 1] * ly + normal[..., 2] * lz
    wrapped = np.maximum((facing + 0.25) / 1.25, 0.0)
    sky = 0.5 - 0.5 * normal[..., 1]
    hx, hy, hz = lx, ly, lz - 1.0
    norm = np.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9
    half = (normal[..., 0] * hx + normal[..., 1] * hy + normal[..., 2] * hz) / norm
    gloss = np.maximum(half, 0.0) ** 18
    return np.stack([params.ambient * (0.72 + 0.4 * sky) + params.lamp * wrapped, params.gloss * gloss], axis=-1)


__all__ = ["ARC", "hem", "patches", "shade"]
