"""`SynthSource`: synthetic faces as a face source; labels are cheap, pixels are rendered on demand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UsageError
from runtime.images import Image
from runtime.layouts import WFLW98, Layout
from train.data.sample import FaceSample
from train.data.synth.marks import Marks, mark
from train.data.synth.params import FaceParams, draw
from train.data.synth.photo import render

MAX_COUNT = 100_000_000
MIN_SIZE, MAX_SIZE = 32, 1024


class SynthSource:
    """`count` synthetic faces of one seed, each on a `size` x `size` photo.

    Face i depends on (seed, i, size) alone: neither on the order of calls nor on the process.

    >>> source = SynthSource(3, seed=1)
    >>> len(source), source.sample(2).points.shape, source.photo(2).shape
    (3, (98, 2), (160, 160, 3))
    """

    def __init__(self, count: int, seed: int = 0, size: int = 160) -> None:
        if not 1 <= count <= MAX_COUNT:
            raise UsageError(f"synthetic faces: count must lie in 1..{MAX_COUNT}, found {count}")
        if not 0 <= seed < 1 << 63:
            raise UsageError(f"synthetic faces: seed must lie in 0..2^63-1, found {seed}")
        if not MIN_SIZE <= size <= MAX_SIZE:
            raise UsageError(f"synthetic faces: size must lie in {MIN_SIZE}..{MAX_SIZE}, found {size}")
        self.count, self.seed, self.size = count, seed, size
        self._latest: tuple[int, FaceParams, Marks] | None = None

    @property
    def name(self) -> str:
        return f"synth:{self.count}@{self.seed}"

    @property
    def layout(self) -> Layout:
        return WFLW98

    def __len__(self) -> int:
        return self.count

    def face(self, index: int) -> tuple[FaceParams, Marks]:
        """Every number that face `index` is made of, and its points before they are placed in the photo."""
        if not 0 <= index < self.count:
            raise IndexError(f"face {index} of {self.count}")
        latest = self._latest
        if latest is None or latest[0] != index:
            params = draw(self.seed, index)
            latest = self._latest = (index, params, mark(params))
        return latest[1], latest[2]

    def sample(self, index: int) -> FaceSample:
        """Points, box, flags and angles; nothing is rendered."""
        params, marks = self.face(index)
        _, _, points = placed(params, marks, self.size)
        low, high = points.min(axis=0), points.max(axis=0)
        margin = (high - low) * 0.06
        x0, y0 = np.floor(np.maximum(low - margin, 0.0))
        x1, y1 = np.ceil(np.minimum(high + margin, self.size - 1.0))
        name = f"{self.seed}_{index:07d}"
        return FaceSample(
            image=Path("synth") / f"{name}.png",
            points=points,
            layout=WFLW98.name,
            box=(float(x0), float(y0), float(x1), float(y1)),
            attributes=params.attributes,
            angles=params.angles,
            origin=f"{self.name}:{index}",
            group=f"synth/{name}",
        )

    def photo(self, index: int) -> Image:
        """Render face `index`."""
        params, marks = self.face(index)
        scale, centre, _ = placed(params, marks, self.size)
        return render(params, marks, scale, centre, self.seed, index, self.size)


def placed(params: FaceParams, marks: Marks, size: int) -> tuple[float, NDArray[np.float64], NDArray[np.float32]]:
    """Scale, pixel of the head's origin, and the points in the photo, rounded to 1/1024 pixel."""
    low, high = marks.flat.min(axis=0), marks.flat.max(axis=0)
    scale = float(params.fill * size / (high - low).max())
    centre = (size - 1) / 2 + np.asarray(params.shift) * size - (low + high) / 2 * scale
    points = np.round((marks.flat * scale + centre) * 1024) / 1024
    return scale, centre, points.astype(np.float32)
