"""OpenVINO on the CPU, in full precision: left to itself it computes in bfloat16 where the CPU can."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError


@functools.cache
def the_core() -> Any:
    """One for the life of the process.

    The CPU plugin gives the thread that first compiles a stack of its own for signals, and takes the memory back with
    the last core. When that happens in another thread, the next signal, a Ctrl-C for example, is a crash.
    """
    return importlib.import_module("openvino").Core()


class OpenVinoNet:
    """An .xml and .bin pair, ready to run; any batch."""

    layout = "NCHW"

    def __init__(self, path: Path, threads: int) -> None:
        openvino: Any = importlib.import_module("openvino")
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            core = the_core()
            weights = np.fromfile(path.with_suffix(".bin"), dtype=np.uint8)
            network = core.read_model(path.read_bytes(), openvino.Tensor(weights))
            self._request = core.compile_model(network, "CPU", settings).create_infer_request()
        except (RuntimeError, ValueError) as error:
            last = (str(error).strip() or "no reason given").splitlines()[-1].strip()
            raise InputError(f"{path.name}: OpenVINO refuses it: {last[:200]}") from error
        inputs, outputs = network.inputs, network.outputs
        if len(inputs) != 1 or len(outputs) != 1:
            raise InputError(f"{path.name}: expected one input and one output, found {len(inputs)} and {len(outputs)}")
        self.input_name, self.output_name = inputs[0].get_any_name(), outputs[0].get_any_name()

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            self._request.infer({0: np.ascontiguousarray(batch, dtype=np.float32)})
        except RuntimeError as error:
            raise InputError(f"OpenVINO cannot run the file: {str(error).strip().splitlines()[-1][:200]}") from error
        return np.array(self._request.get_output_tensor(0).data, dtype=np.float32).reshape(len(batch), -1)


def load(path: Path, threads: int) -> OpenVinoNet:
    """Open an .xml file and the .bin beside it."""
    return OpenVinoNet(path, threads)
