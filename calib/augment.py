"""Turn real faces into harder real faces: rotation, shift, scale, squeeze, mirror, light, blur, an occluding patch.

Every face depends on (seed, number) alone. Only pixels of the given faces are used; there is no synthetic noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.images import Image


@dataclass(frozen=True)
class Strength:
    """Largest change of each kind; an actual face draws uniformly below it."""

    degrees: float = 30.0
    shift: float = 0.08
    """Of the crop's side."""
    zoom: float = 1.25
    squeeze: float = 0.25
    """Narrowing of one axis, which is how a turned face looks."""
    shear: float = 0.12
    contrast: float = 0.45
    brightness: float = 50.0
    gamma: float = 1.8
    shade: float = 0.5
    """Light from one side: a linear ramp that darkens by at most this."""
    blur: float = 0.25
    """Probability of losing resolution."""
    occlusion: float = 0.3
    """Probability that a patch of another face hides a part."""


HARD = Strength()
NONE = Strength(0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0)
MILD = Strength(15, 0.05, 1.12, 0.1, 0.05, 0.25, 25, 1.3, 0.25, 0.1, 0.1)


def augment(faces: NDArray[np.uint8], size: int, index: int, seed: int, number: int, strength: Strength) -> Image:
    """Face `index` changed at random into a (size, size, 3) network crop; `faces` are (N, M, M, 3), M >= size."""
    import cv2

    random = np.random.default_rng((seed, number, 0x1A7))
    image = faces[index]
    matrix = _geometry(random, image.shape[0], size, strength)
    warped = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    crop = np.asarray(warped, dtype=np.uint8)
    if random.random() < strength.occlusion:
        _occlude(random, crop, faces[int(random.integers(len(faces)))])
    return _light(random, crop, strength)


def _geometry(random: np.random.Generator, source: int, size: int, strength: Strength) -> NDArray[np.float64]:
    angle = np.deg2rad(random.uniform(-strength.degrees, strength.degrees))
    zoom = np.exp(random.uniform(-1, 1) * np.log(strength.zoom))
    narrow = 1 - random.uniform(0, strength.squeeze) if strength.squeeze else 1.0
    squeeze = np.diag([narrow, 1.0] if random.random() < 0.7 else [1.0, narrow])
    shear = np.array([[1.0, random.uniform(-1, 1) * strength.shear], [0.0, 1.0]])
    flip = np.diag([-1.0 if strength is not NONE and random.random() < 0.5 else 1.0, 1.0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = zoom * turn @ shear @ squeeze @ flip
    shift = random.uniform(-1, 1, 2) * strength.shift * size
    offset = (size - 1) / 2 + shift - linear @ np.full(2, (source - 1) / 2)
    return np.hstack([linear, offset[:, None]])


def _occlude(random: np.random.Generator, crop: Image, other: Image) -> None:
    size = crop.shape[0]
    height, width = (int(v) for v in random.uniform(0.15, 0.45, 2) * size)
    top, left = int(random.integers(size - height)), int(random.integers(size - width))
    y, x = int(random.integers(other.shape[0] - height)), int(random.integers(other.shape[1] - width))
    crop[top : top + height, left : left + width] = other[y : y + height, x : x + width]


def _light(random: np.random.Generator, crop: Image, strength: Strength) -> Image:
    import cv2

    levels = np.arange(256, dtype=np.float64) / 255
    gamma = np.exp(random.uniform(-1, 1) * np.log(strength.gamma))
    contrast = 1 + random.uniform(-1, 1) * strength.contrast
    bright = random.uniform(-1, 1) * strength.brightness
    curve = (levels**gamma - 0.5) * 255 * contrast + 127.5 + bright
    table = np.clip(np.rint(curve), 0, 255).astype(np.uint8)
    crop = np.asarray(table[crop] if strength is not NONE else crop, dtype=np.uint8)
    if random.random() < 0.5 and strength.shade > 0:
        side, angle = random.uniform(0, strength.shade), random.uniform(0, 2 * np.pi)
        axis = np.linspace(-1, 1, crop.shape[0])
        ramp = (np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]) / np.sqrt(2)
        crop = np.clip(np.rint(crop * (1 - side * (ramp[..., None] + 1) / 2)), 0, 255).astype(np.uint8)
    if random.random() < strength.blur:
        small = int(crop.shape[0] * random.uniform(0.3, 0.8))
        low = cv2.resize(crop, (small, small), interpolation=cv2.INTER_AREA)
        crop = np.asarray(cv2.resize(low, crop.shape[:2], interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    return crop


def augmented(
    faces: NDArray[np.uint8], size: int, count: int, seed: int, strength: Strength, first: int = 0
) -> NDArray[np.uint8]:
    """`count` changed faces, numbers `first` onward; each pass over the faces takes them in a fresh order."""
    result = np.empty((count, size, size, 3), dtype=np.uint8)
    for row in range(count):
        number = first + row
        turn, place = divmod(number, len(faces))
        order = np.random.default_rng((seed, turn, 0x0DE)).permutation(len(faces))
        result[row] = augment(faces, size, int(order[place]), seed, number, strength)
    return result


def centre(faces: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The network's own crop out of faces that were cut with a margin."""
    margin = (faces.shape[1] - size) // 2
    return np.ascontiguousarray(faces[:, margin : margin + size, margin : margin + size])
