"""The pixel half of augmentation, on the network-sized crop: occlusion, colour, loss of detail, noise, JPEG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.images import Image
from train.data.augment import AugmentConfig
from train.data.draws import Draws
from train.data.views import View

LUMA_BGR = (0.114, 0.587, 0.299)
NOISE_VALUES = 1 << 19
NOISE_LEVELS = 17
"""Standard deviations 0..16 in whole grey levels."""
MOTION_SHARE = 1 / 3
OCCLUDERS = ("rectangle", "ellipse", "patch")

Step = Callable[[Image], Image]
Texture = Callable[[int], Image]
"""A random whole number -> any packed face, to cut a patch from."""


@lru_cache(maxsize=1)
def _noise_bank() -> tuple[NDArray[np.int16], ...]:
    """Ready-made noise of every level; a face takes a stretch of it."""
    normal = np.random.default_rng(20).standard_normal(NOISE_VALUES, dtype=np.float32)
    return tuple(np.rint(normal * level).astype(np.int16) for level in range(NOISE_LEVELS))


class PixelPlan:
    """What happens to the pixels of each face of a batch; all random numbers are drawn for the batch at once."""

    def __init__(self, config: AugmentConfig, draws: Draws, size: int, view: View | None = None) -> None:
        """For crops of `size` pixels, or for another view of them."""
        self._scale = view.scale if view is not None else 1.0
        self._size = view.size if view is not None else size
        self._occlude = _Occlusions(config, draws, size, view) if config.occlusion > 0 else None
        self._colour = _colour_matrices(config, draws)
        self._gamma = _gamma_tables(config, draws)
        self._shrink = _sizes_after_shrinking(config, draws, size, view)
        self._blur = _blurs(config, draws, self._scale)
        self._noise = _noises(config, draws, self._size)
        self._jpeg = _qualities(config, draws)

    def apply(self, row: int, face: Image, texture: Texture) -> Image:
        """Change the crop of batch row `row`."""
        if self._occlude is not None:
            self._occlude.apply(row, face, texture if self._scale == 1 else self._enlarged(texture))
        if self._colour is not None:
            face = _u8(cv2.transform(face, self._colour[row]))
        if row in self._gamma:
            face = _u8(cv2.LUT(face, self._gamma[row]))
        if row in self._shrink:
            small = cv2.resize(face, (self._shrink[row],) * 2, interpolation=cv2.INTER_AREA)
            face = _u8(cv2.resize(small, (self._size, self._size), interpolation=cv2.INTER_LINEAR))
        if row in self._blur:
            face = self._blur[row](face)
        if row in self._noise:
            level, start = self._noise[row]
            noise = _noise_bank()[level][start : start + face.size].reshape(face.shape)
            face = _u8(cv2.add(face, noise, dtype=cv2.CV_8U))
        if row in self._jpeg:
            _, code = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, self._jpeg[row]])
            face = _u8(cv2.imdecode(code, cv2.IMREAD_COLOR))
        return face

    def _enlarged(self, texture: Texture) -> Texture:
        """Textures as large in the view as they are in the crop."""
        scale = self._scale
        return lambda number: _u8(cv2.resize(texture(number), None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR))


def _u8(image: Any) -> Image:
    return np.asarray(image, dtype=np.uint8)


def _rows(chosen: NDArray[np.bool_]) -> list[int]:
    return [int(row) for row in np.flatnonzero(chosen)]


def _colour_matrices(config: AugmentConfig, draws: Draws) -> NDArray[np.float32] | None:
    """Brightness, contrast, saturation and white balance as one 3x4 colour matrix for each face."""
    neutral = config.contrast == (1.0, 1.0) and config.saturation == (1.0, 1.0)
    if neutral and not (config.brightness or config.channel_gain or config.grey):
        return None
    count = len(draws)
    saturation = draws.uniform("saturation", *config.saturation)
    saturation[draws.happens("grey", config.grey)] = 0.0
    contrast = draws.uniform("contrast", *config.contrast)
    offset = 255 * draws.uniform("brightness", -config.brightness, config.brightness)
    reach = config.channel_gain
    gains = np.stack([draws.uniform(f"gain {channel}", 1 - reach, 1 + reach) for channel in "bgr"], 1)
    mixing = saturation[:, None, None] * np.eye(3) + (1 - saturation)[:, None, None] * np.asarray(LUMA_BGR)
    matrices = np.empty((count, 3, 4), dtype=np.float32)
    matrices[:, :, :3] = contrast[:, None, None] * gains[:, :, None] * mixing
    matrices[:, :, 3] = (127.5 * (1 - contrast) + offset)[:, None]
    return matrices


def _gamma_tables(config: AugmentConfig, draws: Draws) -> dict[int, NDArray[np.uint8]]:
    rows = _rows(draws.happens("gamma chance", config.gamma_chance))
    gammas = np.exp(draws.uniform("gamma", *np.log(config.gamma)))[rows]
    tables = 255 * (np.arange(256) / 255)[None] ** gammas[:, None]
    return dict(zip(rows, np.rint(tables).astype(np.uint8), strict=True))


def _sizes_after_shrinking(config: AugmentConfig, draws: Draws, size: int, view: View | None) -> dict[int, int]:
    factors = draws.uniform("low resolution factor", *config.low_resolution_factor)
    rows = _rows(draws.happens("low resolution", config.low_resolution))
    if view is None:
        return {row: max(4, round(size * float(factors[row]))) for row in rows}
    # The view keeps as much detail as the crop does, on its own square.
    sides = {row: max(4, round(size * float(factors[row]) * view.ratio)) for row in rows}
    return {row: side for row, side in sides.items() if side < view.size}


def _blurs(config: AugmentConfig, draws: Draws, scale: float) -> dict[int, Step]:
    sigmas = scale * draws.uniform("blur sigma", *config.blur_sigma)
    moving = draws.happens("motion", MOTION_SHARE)
    angles = draws.uniform("motion angle", 0.0, np.pi)
    return {
        row: _along_a_line(sigmas[row], angles[row]) if moving[row] else _gaussian(sigmas[row])
        for row in _rows(draws.happens("blur", config.blur))
    }


def _gaussian(sigma: float) -> Step:
    width = 2 * int(np.ceil(2 * sigma)) + 1
    return lambda face: _u8(cv2.GaussianBlur(face, (width, width), sigma))


def _along_a_line(sigma: float, angle: float) -> Step:
    """Motion blur: an even line about 3.5 sigma long, drawn with soft edges."""
    reach = 1.75 * sigma
    half = int(np.ceil(reach))
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    along = np.abs(x * np.cos(angle) + y * np.sin(angle))
    across = np.abs(y * np.cos(angle) - x * np.sin(angle))
    kernel = np.clip(reach + 0.5 - along, 0, 1) * np.clip(1 - across, 0, 1)
    kernel /= kernel.sum()
    return lambda face: _u8(cv2.filter2D(face, -1, kernel))


def _noises(config: AugmentConfig, draws: Draws, size: int) -> dict[int, tuple[int, int]]:
    levels = np.rint(draws.uniform("noise sigma", *config.noise_sigma)).astype(int)
    room = NOISE_VALUES - 3 * size * size
    starts = draws.integer("noise start", max(1, room))
    rows = _rows(draws.happens("noise", config.noise)) if room > 0 else []
    return {row: (int(levels[row]), int(starts[row])) for row in rows if levels[row] > 0}


def _qualities(config: AugmentConfig, draws: Draws) -> dict[int, int]:
    qualities = draws.uniform("jpeg quality", *config.jpeg_quality)
    return {row: round(float(qualities[row])) for row in _rows(draws.happens("jpeg", config.jpeg))}


class _Occlusions:
    """At most one thing in front of each face."""

    def __init__(self, config: AugmentConfig, draws: Draws, size: int, view: View | None) -> None:
        chosen = draws.happens("occlusion", config.occlusion)
        kinds = draws.integer("occluder", len(OCCLUDERS))
        low, high = config.occlusion_size
        extent = np.stack([draws.uniform(f"occluder {axis}", low, high) for axis in ("width", "height")], 1) * size
        place = np.stack([draws.uniform(f"occluder {axis}", 0.0, size) for axis in ("x", "y")], 1)
        if view is not None:
            extent, place = extent * view.scale, place * view.scale + view.offset
        colours = np.stack([draws.uniform(f"occluder {channel}", 0.0, 256.0) for channel in "bgr"], 1)
        angles = draws.uniform("occluder angle", 0.0, 180.0)
        textures = draws.integer("occluder texture", 1 << 31)
        self._what: dict[int, tuple[str, Sequence[float], Sequence[float], Sequence[float], float, int]] = {
            row: (
                OCCLUDERS[kinds[row]],
                extent[row].tolist(),
                place[row].tolist(),
                colours[row].tolist(),
                float(angles[row]),
                int(textures[row]),
            )
            for row in _rows(chosen)
        }

    def apply(self, row: int, face: Image, texture: Texture) -> None:
        if row not in self._what:
            return
        kind, (width, height), (x, y), colour, angle, number = self._what[row]
        if kind == "ellipse":
            cv2.ellipse(face, ((x, y), (width, height), angle), colour, -1)
            return
        left, top = int(x - width / 2), int(y - height / 2)
        if kind == "rectangle":
            cv2.rectangle(face, (left, top), (int(left + width), int(top + height)), colour, -1)
            return
        _paste(face, texture(number), left, top, int(width), int(height))


def _paste(face: Image, other: Image, left: int, top: int, width: int, height: int) -> None:
    """Copy the middle of another face over a part of this one."""
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(face.shape[1], left + width), min(face.shape[0], top + height)
    rows, columns = min(y1 - y0, other.shape[0]), min(x1 - x0, other.shape[1])
    if rows <= 0 or columns <= 0:
        return
    down, right = (other.shape[0] - rows) // 2, (other.shape[1] - columns) // 2
    face[y0 : y0 + rows, x0 : x0 + columns] = other[down : down + rows, right : right + columns]
