"""A TensorRT engine as an artefact: a plan beside its sidecar, run through the TensorRT back end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from export.artefact_c import pixels
from runtime.backends.tensorrt import open_plan
from runtime.errors import UsageError
from runtime.files import sha256_file
from runtime.spec import ModelSpec

PRECISIONS: dict[str, Literal["float32", "float16", "int8"]] = {"fp16": "float16", "int8": "int8"}
"""What a card calls a precision -> what an artefact calls it; anything else is float32."""


class EngineArtefact:
    """`BUNDLE/trt/NAME.plan`, on the GPU it was built for."""

    kind = "engine"
    own_spec = True
    layers: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path, self.sha256 = str(path), sha256_file(path)
        self._model = open_plan(path)
        self.spec: ModelSpec | None = self._model.spec
        self.precision: Literal["float32", "float16", "int8"] = PRECISIONS.get(self._model.card.precision, "float32")

    def predict(self, batch: NDArray[np.float32]) -> NDArray[Any]:
        """Normalised float32 (B, 3, S, S) -> (B, 2N)."""
        crops = pixels(batch, self._model.spec, self.path)
        return self._model.landmarks(crops).reshape(len(batch), -1)

    def layer(self, name: str) -> NoReturn:
        """TensorRT fuses layers and keeps none of their maps."""
        raise UsageError(f"{self.path}: an engine puts out landmarks only, no layer {name!r}; compare its ONNX instead")
