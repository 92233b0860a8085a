"""Several models look at a face in several ways; their weighted mean or median is the label, their spread the doubt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, UsageError
from runtime.geometry import Box, crop_region, network_input, warp
from runtime.images import Image
from runtime.layouts import Layout
from runtime.spec import ModelSpec
from train.evaluate import Predict
from train.label.variations import Variation, to_photo

Combine = Literal["mean", "median"]
COMBINES: tuple[Combine, ...] = ("mean", "median")
CROPS_AT_A_TIME = 64


@dataclass(frozen=True)
class Member:
    """One model of an ensemble."""

    name: str
    spec: ModelSpec
    predict: Predict
    weight: float = 1.0
    digest: str = ""
    """sha256 of its file."""


@dataclass(frozen=True)
class Opinion:
    """What an ensemble says about faces."""

    points: NDArray[np.float64]
    """(F, N, 2) in photo pixels."""
    spread: NDArray[np.float64]
    """(F, N) root mean square distance of the single predictions from the label, over the face's size."""

    @property
    def disagreement(self) -> NDArray[np.float64]:
        """(F,) mean spread of each face."""
        return np.asarray(self.spread.mean(1))


class Ensemble:
    """Models of one layout and the variations that each of them sees."""

    def __init__(self, members: Sequence[Member], variations: Sequence[Variation], combine: Combine = "mean") -> None:
        if not members or not variations:
            raise UsageError("an ensemble needs at least one model and one variation")
        first = members[0]
        for member in members:
            if member.spec.layout != first.spec.layout:
                raise UsageError(
                    f"{member.name} has the layout {member.spec.layout}, {first.name} has {first.spec.layout}; "
                    "models that label together must share one"
                )
            if member.spec.crop.box != "landmarks":
                raise UsageError(f"{member.name}: its crop starts from the box {member.spec.crop.box!r}, not landmarks")
        if combine not in COMBINES:
            raise UsageError(f"unknown way to combine {combine!r}; known: {', '.join(COMBINES)}")
        self.members, self.variations, self.combine = tuple(members), tuple(variations), combine
        flips = any(v.flip for v in variations)
        if flips and first.spec.flip is None and not first.spec.point_layout.normalisers:
            raise UsageError(f"{first.name}: layout {first.spec.layout} has no mirror pairs; use variations none")

    @property
    def layout(self) -> Layout:
        return self.members[0].spec.point_layout

    def __call__(self, photos: Sequence[Image], boxes: Sequence[Box]) -> Opinion:
        """Label faces, given the photo and the landmark box of each."""
        looks = [
            self._look(member, variation, photos, boxes) for member in self.members for variation in self.variations
        ]
        weights = np.repeat([member.weight for member in self.members], len(self.variations)).astype(np.float64)
        seen = np.stack(looks)
        points = weighted_mean(seen, weights) if self.combine == "mean" else weighted_median(seen, weights)
        squared = np.square(seen - points).sum(-1)
        spread = np.sqrt(np.tensordot(weights / weights.sum(), squared, 1))
        return Opinion(points, spread / face_sizes(points)[:, None])

    def refined(self, photos: Sequence[Image], boxes: Sequence[Box], rounds: int) -> list[Box]:
        """Landmark boxes found from rough ones: the box of what the models say, again and again."""
        plain = Ensemble(self.members, self.variations[:1], self.combine)
        found = list(boxes)
        for _ in range(rounds):
            found = [Box.around(face) for face in plain(photos, found).points]
        return found

    def _look(
        self, member: Member, variation: Variation, photos: Sequence[Image], boxes: Sequence[Box]
    ) -> NDArray[np.float64]:
        spec = member.spec
        size = spec.input_size
        points = np.empty((len(photos), spec.points, 2))
        for start in range(0, len(photos), CROPS_AT_A_TIME):
            part = range(start, min(start + CROPS_AT_A_TIME, len(photos)))
            matrices = [variation.matrix(crop_region(boxes[i], spec.crop), size) for i in part]
            crops = [warp(photos[i], m, size, spec.crop.padding) for i, m in zip(part, matrices, strict=True)]
            output = np.asarray(member.predict(network_input(np.stack(crops), spec)), dtype=np.float64)
            if output.shape != (len(crops), 2 * spec.points) or not np.isfinite(output).all():
                raise InputError(f"{member.name}: gives {output.shape} or NaN, expected {spec.points} finite points")
            for row, (at, matrix) in enumerate(zip(part, matrices, strict=True)):
                points[at] = to_photo(output[row].reshape(-1, 2), matrix, variation.flip, spec)
        return points


def face_sizes(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """sqrt(width x height) of the box of each face (F, N, 2): unlike the eyes' distance it holds for profiles too."""
    extent = np.ptp(points, axis=1)
    return np.asarray(np.maximum(np.sqrt(extent[:, 0] * extent[:, 1]), 1e-6))


def weighted_mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the first axis."""
    return np.asarray(np.tensordot(weights / weights.sum(), values, 1))


def weighted_median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the first axis: the value below and above which half of the weight lies; between two, their mean.

    >>> weighted_median(np.array([[1.0], [2.0], [9.0]]), np.array([1.0, 1.0, 1.0])).tolist()
    [2.0]
    """
    order = np.argsort(values, axis=0, kind="stable")
    ordered = np.take_along_axis(values, order, 0)
    reached = np.cumsum(weights[order], axis=0)
    half = weights.sum() / 2
    low = np.argmax(reached >= half * (1 - 1e-12), axis=0)[None]
    high = np.argmax(reached > half * (1 + 1e-12), axis=0)[None]
    middle = (np.take_along_axis(ordered, low, 0) + np.take_along_axis(ordered, high, 0)) / 2
    return np.asarray(middle[0])
