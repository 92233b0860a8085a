"""A bundle's ONNX files on ONNX Runtime: fp32, fp16 and int8, on the CPU."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.backends.ort import OrtModel
from runtime.backends.protocol import Crops, check_crops
from runtime.bundle import Bundle
from runtime.errors import InputError
from runtime.geometry import network_input
from runtime.spec import ModelSpec


class OnnxFaceModel:
    """One ONNX file as a `FaceModel`."""

    def __init__(self, model: OrtModel, spec: ModelSpec, name: str, where: str = "ONNX model") -> None:
        self.name = name
        self.spec = spec
        self._model = model
        wanted = (3, spec.input_size, spec.input_size)
        if tuple(model.input_shape[1:]) != wanted:
            raise InputError(
                f"{where}: takes {list(model.input_shape)}, the spec says (N, {', '.join(map(str, wanted))})"
            )

    def landmarks(self, crops: Crops) -> NDArray[np.float32]:
        """Landmarks of every crop, in one run."""
        check_crops(crops, self.spec)
        if not len(crops):
            return np.zeros((0, self.spec.points, 2), dtype=np.float32)
        output = self._model(network_input(crops, self.spec))
        if output.size != len(crops) * self.spec.points * 2:
            raise InputError(f"{self.name}: puts out {output.shape}, expected {len(crops)} x {self.spec.points} x 2")
        return np.ascontiguousarray(output, dtype=np.float32).reshape(len(crops), self.spec.points, 2)


def open_onnx(bundle: Bundle, precision: str = "fp32", threads: int = 1) -> OnnxFaceModel:
    """Open `fp32`, `fp16` or `int8` of a bundle; the bytes are those that the manifest names."""
    model = OrtModel(bundle.read(precision), threads=threads)
    where = f"{bundle.directory / bundle.manifest.artefact(precision).file}"
    return OnnxFaceModel(model, bundle.spec, f"ONNX Runtime {precision}", where)
