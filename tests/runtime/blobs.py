"""A network that can be trusted: it finds the one bright blob of a crop and puts a mean face on it."""

from __future__ import annotations

import numpy as np

from runtime.detect import Detection, FaceRule
from runtime.geometry import Box
from runtime.images import Image
from runtime.spec import ModelSpec
from tests.runtime.small import mean_points, small_spec

DARK = 40


class BlobFaces:
    """Implements `FaceModel`: the landmarks fill the bright part nearest to the middle of the crop."""

    name = "blobs"

    def __init__(self, spec: ModelSpec | None = None, noise: float = 0.0) -> None:
        self.spec = spec or small_spec()
        self._noise = np.random.default_rng(0)
        self._level = noise
        self.calls: list[int] = []

    def landmarks(self, crops: np.ndarray) -> np.ndarray:
        self.calls.append(len(crops))
        out = np.zeros((len(crops), self.spec.points, 2), dtype=np.float32)
        face = (mean_points() - 0.5) * 1.2
        for place, crop in enumerate(crops):
            bright = crop.max(axis=2) > 2 * DARK
            mask = _middle_part(bright, crop)
            if not mask.any():
                out[place] = np.random.default_rng(place).uniform(0, 1, (self.spec.points, 2))
                continue
            rows, columns = np.nonzero(mask)
            size = len(crop)
            low = np.array([columns.min(), rows.min()]) / size
            high = np.array([columns.max() + 1, rows.max() + 1]) / size
            span = max(high - low)
            out[place] = face * span + (low + high) / 2
        return out + self._noise.normal(0, self._level, out.shape).astype(np.float32)


def _middle_part(bright: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """The pixels of the colour that is found nearest to the middle."""
    if not bright.any():
        return bright
    rows, columns = np.nonzero(bright)
    middle = (len(crop) - 1) / 2
    nearest = int(np.argmin((rows - middle) ** 2 + (columns - middle) ** 2))
    colour = crop[rows[nearest], columns[nearest]].astype(int)
    return bright & (np.abs(crop.astype(int) - colour).max(axis=2) < 24)


class Given:
    """A detector that says what it was told."""

    name = "given"

    def __init__(self, rule: FaceRule | None = None) -> None:
        self.rule = rule or FaceRule()
        self.boxes: list[Box] = []
        self.asked = 0

    def __call__(self, image: Image) -> list[Detection]:
        self.asked += 1
        return [Detection(box, 0.9) for box in self.boxes]


def scene(width: int, height: int, blobs: list[tuple[float, float, float, tuple[int, int, int]]]) -> Image:
    """A dark picture with bright squares (cx, cy, side, colour); later ones lie on top."""
    image = np.full((height, width, 3), DARK, dtype=np.uint8)
    for cx, cy, side, colour in blobs:
        x0, y0 = round(cx - side / 2 + 0.5), round(cy - side / 2 + 0.5)
        image[max(0, y0) : max(0, y0 + round(side)), max(0, x0) : max(0, x0 + round(side))] = colour
    return image


def box_of(cx: float, cy: float, side: float) -> Box:
    return Box(cx - side / 2, cy - side / 2, cx + side / 2, cy + side / 2)
