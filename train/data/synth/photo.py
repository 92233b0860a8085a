"""The photo around the head: background, bust, things in front of the face, then exposure, lens and sensor."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.images import Image
from train.data.synth.atlas import paint
from train.data.synth.brush import Colour, fixed, times
from train.data.synth.camera import perspective
from train.data.synth.dice import Dice
from train.data.synth.figure import QUADS, light_places, lighting, sheet
from train.data.synth.marks import Marks
from train.data.synth.occluders import cover
from train.data.synth.params import FaceParams
from train.data.synth.raster import rasterise

Array = NDArray[np.float64]
Float = NDArray[np.float32]


@lru_cache(maxsize=1)
def _light_maps() -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
    x, y = light_places()
    return cv2.convertMaps(x, y, cv2.CV_16SC2)  # type: ignore[return-value]


@lru_cache(maxsize=1)
def _static() -> NDArray[np.int8]:
    """Sensor noise, standard deviation 42; each photo takes another window."""
    rng = np.random.Generator(np.random.PCG64(31))
    return np.clip(np.rint(rng.normal(0, 42, (400, 400, 3))), -127, 127).astype(np.int8)


def render(params: FaceParams, marks: Marks, scale: float, centre: Array, seed: int, index: int, size: int) -> Image:
    """The photo of one face, BGR uint8 (size, size, 3)."""
    dice = Dice(seed, index, 1)
    picture = _background(dice, size)
    cloth = dice.colour(15, 225)
    _shoulders(picture, params, cloth, scale, centre)
    skin, shadows = paint(params, marks.features, cloth, dice)
    turned = sheet(params, marks.vertices, marks.turn)
    screen = perspective(turned, params.distance) * scale + centre
    seen = rasterise(turned, screen, size, QUADS[params.hair_style], float(marks.turn[2, 0]))
    light = cv2.remap(lighting(params, turned), *_light_maps(), cv2.INTER_LINEAR)
    light = cv2.multiply(cv2.resize(light, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR), shadows)
    half, quarter = np.float32(0.5), np.float32(-0.25)
    lit = cv2.remap(light, seen.x * half + quarter, seen.y * half + quarter, cv2.INTER_LINEAR)
    colours = cv2.remap(skin, seen.x, seen.y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    colours = cv2.multiply(colours, cv2.merge((lit, lit, lit)), dtype=cv2.CV_8U)
    height, width = seen.covered.shape
    part = picture[seen.y0 : seen.y0 + height, seen.x0 : seen.x0 + width]
    edge = cv2.blur(seen.covered, (3, 3)) * (seen.covered > 0)
    inner, outer = cv2.merge((edge, edge, edge)), cv2.merge([255 - edge] * 3)
    part[:] = cv2.add(cv2.multiply(colours, inner, scale=1 / 255), cv2.multiply(part, outer, scale=1 / 255))
    if params.occluder not in ("none", "mask"):
        cover(picture, params, marks, scale, centre, dice)
    return _develop(picture, params, dice)


def _background(dice: Dice, size: int) -> Image:
    """A gradient with clouds, discs and bars; drawn small, because backgrounds are out of focus."""
    small = max(24, size // 3)
    corners = 10 + 225 * dice.rng.random((2, 2, 3))
    if dice.share() < 0.7:
        corners = corners.mean(axis=(0, 1)) + (corners - corners.mean(axis=(0, 1))) * 0.4
    if dice.share() < 0.6:
        corners = corners * 0.3 + corners.mean(axis=2, keepdims=True) * 0.7
    picture = cv2.resize(corners.astype(np.float32), (small, small), interpolation=cv2.INTER_LINEAR)
    cells = dice.whole(3, 28)
    cloud = dice.rng.random((cells, cells, 3), np.float32) + dice.rng.random(
        (cells, cells, 1), np.float32
    ) * np.float32(2.5)
    cloud = cv2.resize(cloud, (small, small), interpolation=cv2.INTER_LINEAR)
    strength = dice.between(0, 28)
    drawn = cv2.addWeighted(picture, 1.0, cloud, strength, -1.75 * strength, dtype=cv2.CV_8U)
    count = dice.whole(0, 7)
    muted = dice.between(0.1, 1.0)
    for row in dice.rng.random((count, 8)).tolist():
        x, y = int((row[0] * 1.2 - 0.1) * small), int((row[1] * 1.2 - 0.1) * small)
        w, h = row[2] * 0.4 * small + 2, row[3] * 0.4 * small + 2
        grey = 255 * row[5]
        colour = [grey + (255 * c - grey) * muted for c in row[5:8]]
        if row[4] < 0.4:
            cv2.ellipse(drawn, ((x, y), (w, h), row[4] * 450), colour, -1, cv2.LINE_8)
        else:
            box = cv2.boxPoints(((x, y), (w, h * 2.5), row[4] * 300))
            cv2.fillConvexPoly(drawn, np.rint(box).astype(np.int32), colour, cv2.LINE_8)
    if dice.share() < 0.7:
        drawn = cv2.blur(drawn, (3, 3))
    return np.asarray(cv2.resize(drawn, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


_BUST = np.concatenate(
    [
        np.stack([np.linspace(-1, 1, 13) * 215, np.abs(np.linspace(-1, 1, 13)) ** 2.3 * 62 + 150], -1),
        [[245.0, 700.0], [-245.0, 700.0]],
    ]
)


def _shoulders(picture: Image, params: FaceParams, cloth: Colour, scale: float, centre: Array) -> None:
    """A clothed bust behind the neck."""
    lit = times(cloth, params.ambient + 0.45 * params.lamp)
    cv2.fillPoly(picture, [fixed(_BUST * scale + centre)], lit, cv2.LINE_AA, 4)


def _develop(picture: Image, params: FaceParams, dice: Dice) -> Image:
    """Exposure, lens and sensor; nothing here moves a point."""
    size = picture.shape[0]
    gain = np.asarray(params.tint) * params.exposure * params.contrast
    lift = 128.0 * params.exposure * (1 - params.contrast)
    shot: cv2.typing.MatLike
    if lift == 0.0:
        shot = cv2.transform(picture, np.diag(gain))
    else:
        table = np.arange(256)[:, None] * gain + lift
        shot = cv2.LUT(picture, np.clip(np.rint(table), 0, 255).astype(np.uint8)[None])
    if params.blur == "gauss":
        shot = cv2.GaussianBlur(shot, (0, 0), params.blur_amount * 2.6 * size / 160 + 0.2)
    elif params.blur == "small":
        small = max(18, int(size * (0.45 - 0.27 * params.blur_amount)))
        shot = cv2.resize(shot, (small, small), interpolation=cv2.INTER_AREA)
        shot = cv2.resize(shot, (size, size), interpolation=cv2.INTER_LINEAR)
    elif params.blur == "motion":
        shot = cv2.filter2D(shot, -1, _motion(params.blur_amount * 9 * size / 160 + 2, dice.between(0, np.pi)))
    if params.noise > 0.3:
        static: cv2.typing.MatLike = _static()
        room = max(1, len(static) - size)
        y, x = dice.whole(0, room), dice.whole(0, room)
        window = static[y : y + size, x : x + size]
        if window.shape != shot.shape:
            window = cv2.resize(static, (size, size), interpolation=cv2.INTER_NEAREST)
        shot = cv2.addWeighted(shot, 1.0, window, params.noise / 42.0, 0.0, dtype=cv2.CV_8U)
    return np.asarray(shot, np.uint8)


def _motion(length: float, angle: float) -> Float:
    """A line through the middle of an odd kernel."""
    side = int(length) | 1
    kernel = np.zeros((side, side), np.float32)
    middle = (side - 1) / 2
    dx, dy = np.cos(angle) * middle, np.sin(angle) * middle
    ends = [(round((middle + s * dx) * 16), round((middle + s * dy) * 16)) for s in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0, 1, cv2.LINE_8, 4)
    kernel += kernel[::-1, ::-1]
    return np.asarray(kernel / kernel.sum(), np.float32)
