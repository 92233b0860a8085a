"""MNN on the CPU, in full precision."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.backends.formats import one_by_one
from runtime.errors import InputError
from runtime.silence import quiet

_INPUT, _OUTPUT = "input", "landmarks"


class MnnNet:
    """An .mnn file, ready to run."""

    layout = "NCHW"
    input_name, output_name = _INPUT, _OUTPUT

    def __init__(self, path: Path, threads: int) -> None:
        settings = {"numThread": threads, "backend": "CPU", "precision": "high", "saveTensors": ()}
        with quiet():
            self._mnn: Any = importlib.import_module("MNN")
            try:
                self._net = self._mnn.Interpreter(str(path))
                self._session = self._net.createSession(settings)
                inputs = self._net.getSessionInputAll(self._session)
                outputs = self._net.getSessionOutputAll(self._session)
            except Exception as error:  # its errors are bare Exceptions
                raise InputError(f"{path.name}: MNN refuses it; convert it again") from error
        if set(inputs) != {_INPUT} or set(outputs) != {_OUTPUT}:
            found = ", ".join([*inputs, *outputs])
            raise InputError(f"{path.name}: expected the input {_INPUT} and the output {_OUTPUT}, found {found}")
        self._input, self._output = inputs[_INPUT], outputs[_OUTPUT]
        self._shape: tuple[int, ...] = ()

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return one_by_one(self._run, batch)

    def _run(self, face: NDArray[np.float32]) -> NDArray[np.float32]:
        mnn, values = self._mnn, np.ascontiguousarray(face, dtype=np.float32)
        if self._shape != values.shape:
            with quiet():
                self._net.resizeTensor(self._input, values.shape)
                self._net.resizeSession(self._session)
            self._shape = values.shape
        order = mnn.Tensor_DimensionType_Caffe
        self._input.copyFrom(mnn.Tensor(values.shape, mnn.Halide_Type_Float, values, order))
        self._net.runSession(self._session)
        shape = self._output.getShape()
        back = mnn.Tensor(shape, mnn.Halide_Type_Float, np.zeros(shape, np.float32), order)
        self._output.copyToHostTensor(back)
        return np.array(back.getNumpyData(), dtype=np.float32)


def load(path: Path, threads: int) -> MnnNet:
    """Open an MNN file."""
    return MnnNet(path, threads)
