"""Faces that proofs and comparisons run on: cut as the model's spec says, never noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, UsageError
from runtime.geometry import Region, crop_region, network_input, warp
from runtime.spec import ModelSpec
from train.data.open import Split, open_source
from train.data.sample import FaceSource
from train.evaluate import face_box
from train.metrics import normaliser_for

DEFAULT_SOURCE = "synth:16@7"
DEFAULT_COUNT = 16
MAX_FACES = 10_000


@dataclass(frozen=True)
class ProbeFaces:
    """A few faces of one source: their photos stay in the source, their crops are made for each spec."""

    source: FaceSource
    indices: tuple[int, ...]

    @property
    def name(self) -> str:
        """The source and how many of its faces, for reports."""
        return f"{len(self)} faces of {self.source.name}"

    def __len__(self) -> int:
        return len(self.indices)

    def crop(self, spec: ModelSpec) -> tuple[NDArray[np.float32], tuple[Region, ...]]:
        """Network inputs (N, 3, S, S) and the region of the photo that each shows."""
        size = spec.input_size
        crops = np.empty((len(self), size, size, 3), dtype=np.uint8)
        regions = []
        for row, index in enumerate(self.indices):
            region = crop_region(face_box(self.source.sample(index), spec), spec.crop)
            crops[row] = warp(self.source.photo(index), region.to_crop(size), size, spec.crop.padding)
            regions.append(region)
        return network_input(crops, spec), tuple(regions)

    def face_size(self) -> tuple[NDArray[np.float64], str]:
        """Each face's size in photo pixels, and what it is: inter-ocular where the layout has eyes, else the box."""
        names = [n.name for n in self.source.layout.normalisers]
        name = "inter-ocular" if "inter-ocular" in names else "box"
        divisor = normaliser_for(self.source.layout, name)
        points = np.stack([np.asarray(self.source.sample(i).points, dtype=np.float64) for i in self.indices])
        if isinstance(divisor, str):
            low, high = np.nanmin(points, axis=1), np.nanmax(points, axis=1)
            return np.asarray(np.sqrt(np.prod(high - low, axis=1))), name
        return np.asarray(divisor.distance(points)), name


def open_probes(text: str | None = None, count: int | None = None, split: str | None = None) -> ProbeFaces:
    """Open a source of faces and choose `count` of them, evenly spread: by default all of `synth:N`, else 16."""
    if count is not None and not 1 <= count <= MAX_FACES:
        raise UsageError(f"--count must lie in 1..{MAX_FACES}, found {count}")
    if split not in (None, "train", "test"):
        raise UsageError(f"--split {split!r}: expected train or test")
    name = text or DEFAULT_SOURCE
    source = open_source(name, split=cast("Split | None", split))
    if not len(source):
        raise InputError(f"{name}: no faces in it")
    default = len(source) if name.startswith("synth:") else DEFAULT_COUNT
    wanted = min(count or min(default, MAX_FACES), len(source))
    return ProbeFaces(source, tuple(i * len(source) // wanted for i in range(wanted)))
