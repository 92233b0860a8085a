"""TensorRT's own calibrators, for 10 and older: an alternative to our Q/DQ scales, fed by our choice of faces."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.tensorrt_cache import CalibrationTable
from export.tensorrt_rules import CALIBRATOR_CLASSES, Legacy
from runtime.backends.cuda import Cuda, host_array
from runtime.geometry import network_input
from runtime.spec import ModelSpec

MOST_PER_BATCH = 16


def batch_size(count: int) -> int:
    """The largest batch that divides the faces evenly, so that none is left out and none counts twice.

    >>> batch_size(512), batch_size(15), batch_size(17)
    (16, 15, 1)
    """
    return max(size for size in range(1, MOST_PER_BATCH + 1) if count % size == 0)


class FaceFeeder:
    """Hands batches of normalised faces to TensorRT in device memory."""

    def __init__(self, crops: NDArray[np.uint8], spec: ModelSpec, cuda: Cuda) -> None:
        self.batch = batch_size(len(crops))
        self._crops, self._spec, self._cuda, self._next = crops, spec, cuda, 0
        shape = (self.batch, 3, spec.input_size, spec.input_size)
        self._bytes = int(np.prod(shape)) * 4
        self._stream = cuda.stream()
        self._device, self._pinned = cuda.malloc(self._bytes), cuda.pinned(self._bytes)
        self._values = host_array(self._pinned, shape)

    def __call__(self) -> int | None:
        """The device address of the next batch; None after the last."""
        if self._next >= len(self._crops):
            return None
        part = self._crops[self._next : self._next + self.batch]
        self._next += self.batch
        self._values[...] = network_input(part, self._spec)
        self._cuda.to_device(self._device, self._pinned, self._bytes, self._stream)
        self._cuda.wait(self._stream)
        return self._device

    def close(self) -> None:
        self._cuda.free(self._device)
        self._cuda.free_pinned(self._pinned)
        self._cuda.destroy_stream(self._stream)


def make_calibrator(trt: Any, method: Legacy, feeder: FaceFeeder, table: CalibrationTable) -> Any:
    """A calibrator of the module that is here; its table is kept under the hash of what it came from."""
    base = getattr(trt, CALIBRATOR_CLASSES[method])

    class Calibrator(base):  # type: ignore[misc, valid-type]  # a class of the module that is here
        def __init__(self) -> None:
            base.__init__(self)

        def get_batch_size(self) -> int:
            return feeder.batch

        def get_batch(self, *_names: object) -> list[int] | None:
            address = feeder()
            return None if address is None else [address]

        def read_calibration_cache(self) -> bytes | None:
            return table.load()

        def write_calibration_cache(self, data: Any) -> None:
            table.store(bytes(data))

    return Calibrator()
