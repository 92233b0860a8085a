"""The photo around the head: background, occluders, light of the whole picture, lens and sensor."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.images import Image
from train.data.synth.atlas import paint
from train.data.synth.figure import patches
from train.data.synth.marks import Marks
from train.data.synth.params import FaceParams, generator
from train.data.synth.raster import rasterise

Array = NDArray[np.float64]
Float = NDArray[np.float32]


def background(rng: np.random.Generator, size: int) -> Float:
    """A gradient with blobs, bars and cloudy noise."""
    low = rng.uniform(10, 235, (2, 2, 3)).astype(np.float32)
    if rng.random() < 0.6:
        low = low.mean(axis=(0, 1)) + (low - low.mean(axis=(0, 1))) * 0.35
    picture = cv2.resize(low, (size, size), interpolation=cv2.INTER_LINEAR)
    cells = int(rng.integers(3, 24))
    cloud = rng.normal(0, 1, (cells, cells, 3)).astype(np.float32)
    cloud += cloud.mean(axis=2, keepdims=True) * 1.5
    picture += cv2.resize(cloud, (size, size), interpolation=cv2.INTER_LINEAR) * np.float32(rng.uniform(0, 22))
    for _ in range(int(rng.integers(0, 7))):
        colour = tuple(float(c) for c in rng.uniform(0, 255, 3))
        x, y, w, h = (
            (int(v) for v in rng.uniform(-0.2, 1.0, 2).tolist() + rng.uniform(0.05, 0.6, 2).tolist())
            if False
            else (0, 0, 0, 0)
        )
        x, y = (int(v) for v in rng.uniform(-0.1, 1.1, 2) * size)
        w, h = (int(v) for v in rng.uniform(0.05, 0.45, 2) * size)
        if rng.random() < 0.5:
            cv2.ellipse(
                picture, (x, y), (w // 2 + 1, h // 2 + 1), float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_8
            )
        else:
            box = cv2.boxPoints(((x, y), (w, h * 2), float(rng.uniform(0, 180))))
            cv2.fillConvexPoly(picture, np.round(box).astype(np.int32), colour, cv2.LINE_8)
    soft = float(rng.uniform(0.4, 4.0)) * size / 160
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), soft), np.float32)


def _shoulders(
    picture: Float, marks: Marks, params: FaceParams, scale: float, centre: Array, rng: np.random.Generator
) -> None:
    """A clothed bust under the head."""
    size = picture.shape[0]
    t = np.linspace(-1, 1, 13)
    drop = np.abs(t) ** 2.4 * 55 + 168 - 14 * (np.abs(t) < 0.2)
    shape = np.stack([t * 215, drop], -1)
    ring = np.concatenate([shape, [[240.0, 600.0], [-240.0, 600.0]]]) * scale + centre
    colour = tuple(float(c) for c in rng.uniform(15, 235, 3) * params.ambient * 1.4)
    cv2.fillPoly(picture, [np.round(ring * 16).astype(np.int32)], colour, cv2.LINE_8, 4)
    del size


def render(params: FaceParams, marks: Marks, scale: float, centre: Array, seed: int, index: int, size: int) -> Image:
    """The photo of one face, BGR uint8 (size, size, 3)."""
    rng = generator(seed, index, 1)
    picture = background(rng, size)
    _shoulders(picture, marks, params, scale, centre, rng)
    skin = paint(params, marks.features, rng)
    seen = rasterise(patches(params, marks, scale, centre), size)
    colours = cv2.remap(skin, seen.atlas_x, seen.atlas_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    light = seen.shade[..., :1]
    gloss = seen.shade[..., 1:] * 255
    colours = (colours * light + gloss) * np.asarray(params.tint, np.float32)
    height, width = seen.covered.shape
    part = picture[seen.y0 : seen.y0 + height, seen.x0 : seen.x0 + width]
    cover = cv2.GaussianBlur(seen.covered * np.uint8(255), (3, 3), 0).astype(np.float32)[..., None] / 255
    part += (colours - part) * (cover * seen.covered[..., None])
    return develop(picture, params, rng)


def develop(picture: Float, params: FaceParams, rng: np.random.Generator) -> Image:
    """Exposure, lens and sensor."""
    size = picture.shape[0]
    if params.exposure != 1.0 or params.contrast != 1.0:
        middle = 128.0 * params.exposure
        picture = picture * np.float32(params.exposure * params.contrast) + np.float32(middle * (1 - params.contrast))
    if params.blur == "gauss":
        picture = cv2.GaussianBlur(picture, (0, 0), params.blur_amount * 2.6 * size / 160 + 0.2)
    elif params.blur == "small":
        small = max(18, int(size * (0.45 - 0.27 * params.blur_amount)))
        picture = cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA)
        picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR)
    elif params.blur == "motion":
        picture = _motion(picture, params.blur_amount * 9 * size / 160 + 2, float(rng.uniform(0, np.pi)))
    if params.noise > 0:
        noise = rng.integers(-128, 128, picture.shape, dtype=np.int8)
        picture = picture + noise * np.float32(params.noise / 74.0)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _motion(picture: Float, length: float, angle: float) -> Float:
    side = int(length) | 1
    kernel = np.zeros((side, side), np.float32)
    middle = (side - 1) / 2
    dx, dy = np.cos(angle) * middle, np.sin(angle) * middle
    ends = [(round((middle + s * dx) * 16), round((middle + s * dy) * 16)) for s in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0, 1, cv2.LINE_8, 4)
    return np.asarray(cv2.filter2D(picture, -1, kernel / kernel.sum()), np.float32)
