"""What `Landmarker` asks of a back end: crops in, landmarks out, and nothing about photos."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UsageError
from runtime.spec import ModelSpec

Crops = NDArray[np.uint8]
"""(N, S, S, 3) uint8 BGR, as cut by the runtime's own geometry."""


@runtime_checkable
class FaceModel(Protocol):
    """One network, ready to run. A back end does its own normalisation from the spec.

    A back end may also have `close()`, which frees what it holds; `Landmarker.close()` calls it.
    """

    name: str
    """What it is, in words for people: `ONNX Runtime fp32`."""
    spec: ModelSpec

    def landmarks(self, crops: Crops) -> NDArray[np.float32]:
        """(N, points, 2) in the units that the spec's network puts out; N = 0 gives an empty array."""
        ...


def check_crops(crops: Crops, spec: ModelSpec) -> None:
    """Refuse what is not a batch of crops for this spec."""
    size = spec.input_size
    if crops.ndim != 4 or crops.shape[1:] != (size, size, 3) or crops.dtype != np.uint8:
        raise UsageError(f"crops: expected (N, {size}, {size}, 3) uint8, found {crops.shape} {crops.dtype}")
