"""A photo whose colours tell where each pixel lies, and a model that reads them: it knows the truth in any crop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.layouts import WFLW98, Layout
from runtime.spec import ModelSpec
from train.data.sample import FaceSample

SIZE = 256


def coloured_photo() -> NDArray[np.uint8]:
    """Blue is x, green is y."""
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.stack([x, y, np.full_like(x, 255)], -1).astype(np.uint8)


def true_points(seed: int = 0) -> NDArray[np.float64]:
    """98 points in the middle of the photo."""
    return np.random.default_rng(seed).uniform(90, 166, (98, 2))


class Knower:
    """Finds out from the colours which affine map made a crop, and gives the true points in it, plus an error."""

    def __init__(self, spec: ModelSpec, truth: NDArray[np.float64], error: NDArray[np.float64] | float = 0.0) -> None:
        self.spec, self.truth, self.error, self.calls = spec, truth, error, 0

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[Any]:
        self.calls += len(batch)
        return np.stack([self._points(crop) for crop in batch])

    def _points(self, crop: NDArray[np.float32]) -> NDArray[np.float64]:
        size = self.spec.input_size
        planes = crop if self.spec.channels == "bgr" else crop[::-1]
        x, y, inside = (plane.astype(np.float64) * 127.5 + 127.5 for plane in planes)
        rows, columns = np.nonzero(inside > 254)
        system = np.stack([x[rows, columns], y[rows, columns], np.ones(len(rows))], 1)
        matrix = np.linalg.lstsq(system, np.stack([columns, rows], 1).astype(np.float64), rcond=None)[0].T
        mirrored = np.linalg.det(matrix[:, :2]) < 0
        truth = self.truth + self.error - (0.5 if self.spec.coordinates == "corner" else 0.0)
        truth = truth[list(self.spec.flip_permutation)] if mirrored else truth
        pixels = truth @ matrix[:, :2].T + matrix[:, 2]
        return ((pixels + 0.5) / size).reshape(-1)


class ColouredSource:
    """Faces on coloured photos; `labels` chooses the points that the source knows."""

    def __init__(self, count: int, layout: Layout = WFLW98, broken: tuple[int, ...] = ()) -> None:
        self.count, self._layout, self.broken = count, layout, broken

    @property
    def name(self) -> str:
        return "coloured"

    @property
    def layout(self) -> Layout:
        return self._layout

    def __len__(self) -> int:
        return self.count

    def points(self) -> NDArray[np.float64]:
        from runtime.layouts import IBUG68_IN_WFLW98

        return true_points() if self._layout is WFLW98 else true_points()[list(IBUG68_IN_WFLW98)]

    def sample(self, index: int) -> FaceSample:
        return FaceSample(
            Path(f"face{index}"), self.points().astype(np.float32), self._layout.name, origin=f"coloured:{index}"
        )

    def photo(self, index: int) -> NDArray[np.uint8]:
        from runtime.errors import InputError

        if index in self.broken:
            raise InputError(f"coloured:{index}: broken")
        return coloured_photo()
