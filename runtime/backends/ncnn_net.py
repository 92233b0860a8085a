"""ncnn on the CPU, in full precision."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.backends.formats import one_by_one
from runtime.errors import InputError

_HALF = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage")
"""ncnn rounds by default where the CPU can; the same file would give other landmarks on a phone than here."""


class NcnnNet:
    """A .param and .bin pair, ready to run."""

    layout = "NCHW"

    def __init__(self, path: Path, threads: int) -> None:
        self._ncnn: Any = importlib.import_module("ncnn")
        self._net = self._ncnn.Net()
        for name in _HALF:
            setattr(self._net.opt, name, False)
        self._net.opt.use_vulkan_compute = False
        self._net.opt.num_threads = threads
        if self._net.load_param(str(path)) or self._net.load_model(str(path.with_suffix(".bin"))):
            raise InputError(f"{path.name}: ncnn refuses it; convert it again")
        inputs, outputs = list(self._net.input_names()), list(self._net.output_names())
        if len(inputs) != 1 or len(outputs) != 1:
            raise InputError(f"{path.name}: expected one input and one output, found {inputs} and {outputs}")
        self.input_name, self.output_name = str(inputs[0]), str(outputs[0])

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return one_by_one(self._run, batch)

    def _run(self, face: NDArray[np.float32]) -> NDArray[np.float32]:
        run = self._net.create_extractor()
        run.input(self.input_name, self._ncnn.Mat(np.ascontiguousarray(face[0], dtype=np.float32)).clone())
        status, found = run.extract(self.output_name)
        if status:
            raise InputError(f"ncnn cannot run the file (status {status})")
        return np.array(found, dtype=np.float32)


def load(path: Path, threads: int) -> NcnnNet:
    """Open a .param file and the .bin beside it."""
    return NcnnNet(path, threads)
