"""Is this a face at all? Scores from the network's own answers; their ROC is measured in docs/runtime.md.

The constants are logistic fits on real faces against squares of photos that hold no face; they say how much of what is
seen speaks for a face, not how exact the points are.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from runtime.backends.protocol import FaceModel
from runtime.meanface import MEAN_FACE
from runtime.spec import ModelSpec

Outputs = NDArray[np.float32]
Scores = NDArray[np.float64]
ScoreKind = Literal["flip", "shape", "none"]
SCORES: tuple[ScoreKind, ...] = ("flip", "shape", "none")
"""`flip`: agreement with the mirrored crop, a second run of the network. `shape`: free, and much weaker."""

_FLOOR = 1e-3
_FLIP_WEIGHT, _FLIP_BIAS = -4.26, -10.89
_SHAPE_WEIGHT, _SIZE_WEIGHT, _SHAPE_BIAS = -1.98, -1.56, -9.36


def score(kind: ScoreKind, model: FaceModel, crops: NDArray[np.uint8], outputs: Outputs) -> Scores:
    """0..1 for each face; nan where a kind knows nothing about the model's points."""
    if kind == "none" or not len(outputs):
        return np.full(len(outputs), np.nan)
    if kind == "shape":
        return shape_score(outputs, model.spec)
    return flip_score(model, crops, outputs)


def flip_score(model: FaceModel, crops: NDArray[np.uint8], outputs: Outputs) -> Scores:
    """How well the landmarks of the mirrored crop, mirrored back, agree: faces do, other things do not."""
    order = list(model.spec.flip_permutation)
    if order == sorted(order):
        return np.full(len(outputs), np.nan)
    mirrored = model.landmarks(np.ascontiguousarray(crops[:, :, ::-1]))[:, order]
    back = np.stack([1 - mirrored[..., 0], mirrored[..., 1]], axis=-1)
    away = np.hypot(outputs[..., 0] - back[..., 0], outputs[..., 1] - back[..., 1]).mean(axis=1)
    return _logistic(np.asarray(_FLIP_WEIGHT * np.log(away / _sizes(outputs) + _FLOOR) + _FLIP_BIAS))


def shape_score(outputs: Outputs, spec: ModelSpec) -> Scores:
    """How well a turned mean face fits the landmarks, and how well they fill the crop."""
    if spec.layout not in MEAN_FACE:
        return np.full(len(outputs), np.nan)
    sizes = _sizes(outputs)
    misfit = np.sqrt(((_without_face(spec.layout) @ outputs.astype(np.float64)) ** 2).sum(axis=2).mean(axis=1)) / sizes
    fill = np.abs(np.log(sizes * spec.crop.scale))
    return _logistic(_SHAPE_WEIGHT * np.log(misfit + _FLOOR) + _SIZE_WEIGHT * np.log(fill + _FLOOR) + _SHAPE_BIAS)


@lru_cache(maxsize=4)
def _without_face(layout: str) -> NDArray[np.float64]:
    """Takes from points everything that a parallel projection of the mean face explains."""
    mean = np.asarray(MEAN_FACE[layout], dtype=np.float64)
    explained = np.hstack([mean, np.ones((len(mean), 1))])
    return np.asarray(np.eye(len(mean)) - explained @ np.linalg.pinv(explained))


def _sizes(outputs: Outputs) -> NDArray[np.float64]:
    spans = (outputs.max(axis=1) - outputs.min(axis=1)).max(axis=1)
    return np.asarray(np.maximum(spans.astype(np.float64), 1e-6))


def _logistic(values: NDArray[np.float64]) -> Scores:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -60, 60))))
