"""Choose calibration faces for coverage: turned, tilted, near, dark and flat ones, not just the first N.

Each face becomes a point: pose from its landmarks (the label where there is one, else the float model's own),
brightness, contrast, light from the side, sharpness, how much of the crop lies outside the photo, and the WFLW flags
where known. The choice starts at the middle of the cloud and always adds the face farthest from all chosen ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.augment import centre
from runtime.errors import UsageError
from runtime.geometry import Region, crop_region, warp
from runtime.spec import ModelSpec
from train.data.pose import can_estimate, estimate_pose
from train.data.sample import FaceSource
from train.evaluate import face_box

DEFAULT_COUNT = 512
MARGIN = 0.25
"""Of the input size, on every side: what a rotation or shift of the crop brings into view."""
FLAG_WEIGHT = 1.0
_LEAST_SPREAD = 4.0
_LEAST_LIKENESS = 0.5
_TOLERATED = 0.1
_RANDOM_SHARE = 0.5
"""Half of the faces are chosen for coverage, the other half evenly: extremes alone would misjudge the usual face."""


@dataclass(frozen=True, eq=False)
class CalibrationFaces:
    """Faces cut by the runtime's own crop, with a margin for later rotation."""

    images: NDArray[np.uint8]
    """(N, M, M, 3) BGR; the middle of the crop is the network's view."""
    names: tuple[str, ...]
    features: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def digest(self) -> str:
        """sha256 of all pixels, in order."""
        return hashlib.sha256(np.ascontiguousarray(self.images).data).hexdigest()


def margin_pixels(size: int) -> int:
    """Whole pixels on every side, so that the middle of the larger crop is the network's crop, pixel for pixel."""
    return round(size * MARGIN)


def cut_with_margin(source: FaceSource, index: int, spec: ModelSpec) -> NDArray[np.uint8]:
    """One face at the network's resolution, with a margin around the network's view."""
    region = crop_region(face_box(source.sample(index), spec), spec.crop)
    size = spec.input_size + 2 * margin_pixels(spec.input_size)
    larger = Region(region.cx, region.cy, region.side * size / spec.input_size, region.angle)
    return warp(source.photo(index), larger.to_crop(size), size, spec.crop.padding)


def select_faces(
    source: FaceSource,
    spec: ModelSpec,
    count: int = DEFAULT_COUNT,
    predict: Callable[[NDArray[np.uint8]], NDArray[np.float32]] | None = None,
    most: int = 4096,
    seed: int = 0,
    progress: Callable[[], object] | None = None,
) -> CalibrationFaces:
    """Cut up to `most` faces of the source and keep `count` of them by coverage.

    `predict` maps uint8 network crops to outputs in [0, 1]; it gives the pose of unlabelled faces. A source with fewer
    faces than asked for keeps them all; one whose crops are empty or noise is refused.
    """
    if count < 1 or most < count:
        raise UsageError(f"calibration faces: cannot choose {count} out of at most {most}")
    if len(source) == 0:
        raise UsageError(f"{source.name}: no calibration faces")
    order = np.arange(len(source))
    if len(source) > most:
        order = np.sort(np.random.default_rng((seed, 0x5E1)).permutation(len(source))[:most])
    images, names, labels, flags = [], [], [], []
    for index in order:
        sample = source.sample(int(index))
        images.append(cut_with_margin(source, int(index), spec))
        names.append(sample.origin or str(sample.image))
        pose = estimate_pose(sample.points, source.layout) if can_estimate(source.layout) else None
        labels.append(pose)
        flags.append([float(flag) for flag in sample.attributes] if sample.attributes else [0.0] * 6)
        if progress is not None:
            progress()
    stacked = np.stack(images)
    crops = centre(stacked, spec.input_size)
    refuse_no_faces(crops)
    poses = _poses(labels, crops, spec, predict)
    features = face_features(crops, poses, np.array(flags) * FLAG_WEIGHT)
    chosen = choose(features, count, seed)
    return CalibrationFaces(stacked[chosen], tuple(names[i] for i in chosen), features[chosen])


def refuse_no_faces(crops: NDArray[np.uint8]) -> None:
    """Refuse empty crops and noise: neighbouring pixels of a photo are alike, those of noise are not."""
    grey = crops.astype(np.float32).mean(axis=3)
    spread = grey.var(axis=(1, 2))
    rough = np.diff(grey, axis=2).var(axis=(1, 2)) / 2
    empty = spread < _LEAST_SPREAD
    noise = ~empty & (rough > _LEAST_LIKENESS * spread)
    for what, found in (("empty", empty), ("noise, not photos", noise)):
        if found.sum() > len(crops) * _TOLERATED:
            raise UsageError(
                f"calibration faces: {int(found.sum())} of {len(crops)} crops are {what} "
                f"(the first is number {int(np.argmax(found))}); give photos of faces"
            )


def _poses(
    labels: list[tuple[float, float, float] | None],
    crops: NDArray[np.uint8],
    spec: ModelSpec,
    predict: Callable[[NDArray[np.uint8]], NDArray[np.float32]] | None,
) -> NDArray[np.float64]:
    """Yaw, pitch, roll of each face: from its label, else from the float model, else straight ahead."""
    missing = [row for row, pose in enumerate(labels) if pose is None]
    found = [(0.0, 0.0, 0.0) if pose is None else pose for pose in labels]
    if missing and predict is not None and can_estimate(spec.point_layout):
        outputs = predict(crops[missing]).reshape(len(missing), spec.points, 2) * spec.input_size
        for row, points in zip(missing, outputs, strict=True):
            found[row] = estimate_pose(points, spec.point_layout) or (0.0, 0.0, 0.0)
    return np.array(found, dtype=np.float64)


def face_features(
    crops: NDArray[np.uint8], poses: NDArray[np.float64], flags: NDArray[np.float64]
) -> NDArray[np.float64]:
    """One row per face, every column but the flags scaled to unit spread."""
    grey = crops.astype(np.float32).mean(axis=3)
    half = grey.shape[2] // 2
    columns = [
        *poses.T,
        grey.mean(axis=(1, 2)),
        grey.std(axis=(1, 2)),
        grey[:, :, :half].mean(axis=(1, 2)) - grey[:, :, half:].mean(axis=(1, 2)),
        grey[:, :half].mean(axis=(1, 2)) - grey[:, half:].mean(axis=(1, 2)),
        np.log1p(np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))),
        (grey == 0).mean(axis=(1, 2)) * 4,
    ]
    table = np.stack(columns, axis=1).astype(np.float64)
    spread = table.std(axis=0)
    table = (table - table.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    return np.hstack([table, flags])


def choose(features: NDArray[np.float64], count: int, seed: int = 0) -> NDArray[np.intp]:
    """Indices of `count` rows, sorted: half by farthest point first, the rest drawn evenly from what is left."""
    total = len(features)
    if count >= total:
        return np.arange(total)
    middle = int(np.argmin(((features - np.median(features, axis=0)) ** 2).sum(axis=1)))
    chosen = [middle]
    distance = ((features - features[middle]) ** 2).sum(axis=1)
    for _ in range(max(0, round(count * (1 - _RANDOM_SHARE)) - 1)):
        farthest = int(np.argmax(distance))
        chosen.append(farthest)
        distance = np.minimum(distance, ((features - features[farthest]) ** 2).sum(axis=1))
    rest = np.setdiff1d(np.arange(total), chosen)
    drawn = np.random.default_rng((seed, 0xD1)).permutation(rest)[: count - len(chosen)]
    return np.sort(np.concatenate([np.array(chosen, dtype=np.intp), drawn.astype(np.intp)]))
