"""What training does to a face: one affine map moves image and points together, then colour, blur, noise, occlusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UsageError
from runtime.geometry import Box, Region, crop_region
from runtime.spec import ModelSpec
from train.data.draws import Draws
from train.data.pack import FacePack

Range = tuple[float, float]


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges and chances; a chance of 0, or a range around its neutral value of no width, switches a step off."""

    rotation: float = 30.0
    """Degrees to either side, uniform."""
    scale: Range = (0.85, 1.2)
    """Factor on the side of the crop rule's square: below 1 zooms in."""
    shift: float = 0.08
    """Largest move of the crop's centre along x and along y, as a fraction of its side."""
    flip: float = 0.5
    """Chance of mirroring, points permuted by the layout."""

    brightness: float = 0.15
    """Added to all channels, as a fraction of full scale, to either side."""
    contrast: Range = (0.75, 1.25)
    """Factor about mid-grey."""
    saturation: Range = (0.6, 1.3)
    """0 is grey, 1 unchanged."""
    channel_gain: float = 0.1
    """Factor of each channel: 1 plus or minus this (white balance)."""
    grey: float = 0.05
    """Chance of a grey picture."""
    gamma: Range = (0.7, 1.5)
    gamma_chance: float = 0.3

    occlusion: float = 0.25
    """Chance of one rectangle, ellipse or patch of another face on top."""
    occlusion_size: Range = (0.1, 0.4)
    """Its width and height as fractions of the crop."""
    blur: float = 0.15
    """Chance of a blur; a third of them along a line (motion)."""
    blur_sigma: Range = (0.4, 1.6)
    low_resolution: float = 0.1
    """Chance of losing detail, as in a small or distant face."""
    low_resolution_factor: Range = (0.3, 0.7)
    noise: float = 0.15
    """Chance of sensor noise."""
    noise_sigma: Range = (1.0, 12.0)
    """Standard deviation in grey levels."""
    jpeg: float = 0.1
    """Chance of JPEG blocks."""
    jpeg_quality: Range = (25.0, 80.0)

    def __post_init__(self) -> None:
        problem = _first_problem(self)
        if problem:
            raise UsageError(f"augmentation: {problem}")

    @staticmethod
    def none() -> AugmentConfig:
        """The plain crop of the rule, as validation and the device see it."""
        return AugmentConfig(
            rotation=0.0, scale=(1.0, 1.0), shift=0.0, flip=0.0,
            brightness=0.0, contrast=(1.0, 1.0), saturation=(1.0, 1.0), channel_gain=0.0, grey=0.0,
            gamma_chance=0.0, occlusion=0.0, blur=0.0, low_resolution=0.0, noise=0.0, jpeg=0.0,
        )  # fmt: skip

    @staticmethod
    def light() -> AugmentConfig:
        """Small moves, little colour: for short runs and fine-tuning."""
        return AugmentConfig(
            rotation=15.0, scale=(0.92, 1.1), shift=0.04,
            brightness=0.1, contrast=(0.85, 1.15), saturation=(0.8, 1.2), channel_gain=0.05, grey=0.02,
            gamma_chance=0.1, occlusion=0.05, blur=0.05, low_resolution=0.03, noise=0.05, jpeg=0.03,
        )  # fmt: skip

    @staticmethod
    def strong() -> AugmentConfig:
        """For long runs on photos from the wild."""
        return AugmentConfig(
            rotation=45.0, scale=(0.75, 1.35), shift=0.12,
            brightness=0.25, contrast=(0.5, 1.5), saturation=(0.2, 1.7), channel_gain=0.2, grey=0.1,
            gamma=(0.5, 2.0), gamma_chance=0.4, occlusion=0.4, occlusion_size=(0.1, 0.5), blur=0.25,
            blur_sigma=(0.4, 2.2), low_resolution=0.2, noise=0.25, noise_sigma=(1.0, 16.0), jpeg=0.2,
        )  # fmt: skip

    @staticmethod
    def preset(name: str) -> AugmentConfig:
        """One of `PRESETS` by name."""
        try:
            return PRESETS[name]()
        except KeyError:
            raise UsageError(f"unknown augmentation {name!r}; known: {', '.join(PRESETS)}") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a recipe; ranges as lists."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> AugmentConfig:
        """Read plain data strictly; keys left out keep their default."""
        known = {field.name for field in fields(AugmentConfig)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise UsageError(f"augmentation: unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        return AugmentConfig(**values)


PRESETS: dict[str, Callable[[], AugmentConfig]] = {
    "none": AugmentConfig.none,
    "light": AugmentConfig.light,
    "default": AugmentConfig,
    "strong": AugmentConfig.strong,
}

_PAIRS = frozenset(field.name for field in fields(AugmentConfig) if isinstance(field.default, tuple))
_CHANCES = ("flip", "grey", "gamma_chance", "occlusion", "blur", "low_resolution", "noise", "jpeg")
_LIMITS: dict[str, Range] = {
    "rotation": (0.0, 180.0),
    "shift": (0.0, 0.5),
    "brightness": (0.0, 1.0),
    "channel_gain": (0.0, 0.9),
    "scale": (0.2, 5.0),
    "contrast": (0.0, 5.0),
    "saturation": (0.0, 5.0),
    "gamma": (0.1, 10.0),
    "occlusion_size": (0.0, 1.0),
    "blur_sigma": (0.1, 5.0),
    "low_resolution_factor": (0.05, 1.0),
    "noise_sigma": (0.0, 16.0),
    "jpeg_quality": (1.0, 100.0),
    **dict.fromkeys(_CHANCES, (0.0, 1.0)),
}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _first_problem(config: AugmentConfig) -> str | None:
    for name, (low, high) in _LIMITS.items():
        value = getattr(config, name)
        pair = name in _PAIRS
        numbers = value if isinstance(value, tuple) else (value,)
        if isinstance(value, tuple) != pair or (pair and len(numbers) != 2) or not all(map(_is_number, numbers)):
            return f"{name} must be {'two numbers' if pair else 'a number'}, found {value!r}"
        if not all(low <= number <= high for number in numbers):
            return f"{name} must lie in {low:g}..{high:g}, found {value!r}"
        if pair and numbers[0] > numbers[1]:
            return f"{name}: the first number must not exceed the second, found {value!r}"
    return None


@dataclass(frozen=True)
class Squares:
    """The crop rule's square of every face of a pack, in pixels of the pack's crops."""

    centres: NDArray[np.float64]
    sides: NDArray[np.float64]
    half: NDArray[np.float64]
    """What points are moved by before they become targets: 0, or minus half a photo pixel in "corner" files."""


def squares(pack: FacePack, spec: ModelSpec) -> Squares:
    """Where the spec's crop rule cuts each packed face."""
    if spec.crop.box != "landmarks":
        raise UsageError(
            f"crop rule on the box {spec.crop.box!r}: training crops by landmarks; use crop box 'landmarks'"
        )
    count = len(pack)
    size = pack.settings.size
    density = size / pack.regions[:, 2]
    rows = np.empty((count, 3))
    for index in range(count):
        if spec.crop.rounding == "none":
            region = crop_region(Box.around(pack.points[index]), spec.crop)
        else:
            region = _photo_to_pack(crop_region(Box(*pack.photo_boxes[index]), spec.crop), pack.regions[index], size)
        rows[index] = region.cx, region.cy, region.side
    half = np.zeros(count) if spec.coordinates == "centre" else -0.5 * density
    return Squares(rows[:, :2].copy(), rows[:, 2].copy(), half)


def _photo_to_pack(region: Region, cut: NDArray[np.float64], size: int) -> Region:
    """Whole-pixel rules count photo pixels, so the square is found in the photo and carried into the pack."""
    scale = size / cut[2]
    middle = (size - 1) / 2
    return Region((region.cx - cut[0]) * scale + middle, (region.cy - cut[1]) * scale + middle, region.side * scale)


@dataclass(frozen=True)
class Moves:
    """How each face of a batch is moved: photo square to crop in one affine map, mirrored or not."""

    matrices: NDArray[np.float64]
    """(B, 2, 3), pack pixels to crop pixels."""
    flipped: NDArray[np.bool_]
    angles: NDArray[np.float64]
    """Radians the square is turned by, as in `runtime.geometry.Region`."""
    scales: NDArray[np.float64]
    """Crop pixels per pack pixel."""


def draw_moves(
    config: AugmentConfig, draws: Draws, centres: NDArray[np.float64], sides: NDArray[np.float64], size: int
) -> Moves:
    """Choose the geometry of a batch; with no augmentation it is the runtime's crop."""
    angles = np.radians(draws.uniform("rotation", -config.rotation, config.rotation))
    sides = sides * np.exp(draws.uniform("scale", *np.log(config.scale)))
    shift = np.stack(
        [draws.uniform("shift x", -config.shift, config.shift), draws.uniform("shift y", -config.shift, config.shift)],
        1,
    )
    centres = centres + shift * sides[:, None]
    flipped = draws.happens("flip", config.flip)
    scales = size / sides
    cos, sin = np.cos(angles) * scales, np.sin(angles) * scales
    middle = (size - 1) / 2
    matrices = np.empty((len(sides), 2, 3))
    matrices[:, 0] = np.stack([cos, sin, middle - cos * centres[:, 0] - sin * centres[:, 1]], 1)
    matrices[:, 1] = np.stack([-sin, cos, middle + sin * centres[:, 0] - cos * centres[:, 1]], 1)
    matrices[flipped, 0] *= -1
    matrices[flipped, 0, 2] += size - 1
    return Moves(matrices, flipped, angles, scales)


def move_points(
    points: NDArray[np.float32], moves: Moves, half: NDArray[np.float64], size: int, flip: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Targets (B, N, 2) in [0, 1] of the crop as `points_to_target` gives them, and weights: 0 where unknown."""
    pixels = (
        np.matmul(points.astype(np.float64), moves.matrices[:, :, :2].transpose(0, 2, 1))
        + moves.matrices[:, None, :, 2]
    )
    targets = (pixels + (half * moves.scales)[:, None, None] + 0.5) / size
    targets[moves.flipped] = targets[moves.flipped][:, list(flip)]
    known = np.isfinite(targets).all(axis=2)
    targets[~known] = 0.5
    return targets.astype(np.float32), known.astype(np.float32)


def move_weights(weights: NDArray[np.float32], moves: Moves, flip: Sequence[int]) -> NDArray[np.float32]:
    """Weights (B, N) go where their points go when a face is mirrored."""
    moved = weights.copy()
    moved[moves.flipped] = moved[moves.flipped][:, list(flip)]
    return moved


def move_angles(angles: NDArray[np.float32], moves: Moves) -> NDArray[np.float32]:
    """Yaw, pitch, roll after the turn of the square and the mirror; roll > 0 tips the head to the image's right."""
    moved = angles.astype(np.float64)
    roll = moved[:, 2] - moves.angles
    moved[:, 2] = (roll + np.pi) % (2 * np.pi) - np.pi
    moved[moves.flipped] *= (-1.0, 1.0, -1.0)
    return moved.astype(np.float32)
