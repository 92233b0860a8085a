"""LiteRT (TensorFlow Lite) on the CPU, with XNNPACK; files may want channels last."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.backends.formats import one_by_one
from runtime.errors import InputError


class TfliteNet:
    """A .tflite file, ready to run."""

    def __init__(self, path: Path, threads: int) -> None:
        interpreter: Any = importlib.import_module("ai_edge_litert.interpreter").Interpreter
        try:
            self._net = interpreter(model_content=path.read_bytes(), num_threads=threads)
            self._net.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise InputError(f"{path.name}: LiteRT refuses it: {' '.join(str(error).split())[:200]}") from error
        inputs, outputs = self._net.get_input_details(), self._net.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1:
            raise InputError(f"{path.name}: expected one input and one output, found {len(inputs)} and {len(outputs)}")
        shape = [int(n) for n in inputs[0]["shape"]]
        if len(shape) != 4 or shape[0] != 1 or inputs[0]["dtype"] != np.float32 or 3 not in (shape[1], shape[3]):
            raise InputError(f"{path.name}: takes {inputs[0]['dtype'].__name__} {shape}, expected one float32 face")
        self.layout = "NHWC" if shape[3] == 3 else "NCHW"
        self.input_name, self.output_name = str(inputs[0]["name"]), str(outputs[0]["name"])
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return one_by_one(self._run, batch)

    def _run(self, face: NDArray[np.float32]) -> NDArray[np.float32]:
        values = face.transpose(0, 2, 3, 1) if self.layout == "NHWC" else face
        try:
            self._net.set_tensor(self._input, np.ascontiguousarray(values, dtype=np.float32))
            self._net.invoke()
        except (ValueError, RuntimeError) as error:
            raise InputError(f"LiteRT cannot run the file: {' '.join(str(error).split())[:200]}") from error
        return np.array(self._net.get_tensor(self._output), dtype=np.float32)


def load(path: Path, threads: int) -> TfliteNet:
    """Open a .tflite file."""
    return TfliteNet(path, threads)
