"""A bundle's C as an artefact: opened by its folder, run through the C back end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from runtime.backends.c import FOLDERS, open_c
from runtime.bundle import Bundle
from runtime.errors import UsageError
from runtime.spec import ModelSpec

_OFF_GRID = 0.02
"""How far from a whole grey level rounding can leave a normalised pixel."""


class CArtefact:
    """`BUNDLE/c` or `BUNDLE/c-int8`."""

    kind = "c"
    own_spec = True
    layers: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        bundle = Bundle.open(path.parent)
        self.path = str(path)
        self.precision: Literal["float32", "float16", "int8"] = "int8" if path.name == FOLDERS["int8"] else "float32"
        self._model = open_c(bundle, "int8" if self.precision == "int8" else "fp32")
        self.spec: ModelSpec | None = bundle.spec
        self.sha256 = bundle.manifest.artefact(path.name).sha256

    def predict(self, batch: NDArray[np.float32]) -> NDArray[Any]:
        """Normalised float32 (B, 3, S, S) -> (B, 2N)."""
        crops = pixels(batch, self._model.spec, self.path)
        return self._model.landmarks(crops).reshape(len(batch), -1)

    def layer(self, name: str) -> NoReturn:
        """Maps of single layers live in a shared arena and are gone when the run ends."""
        raise UsageError(f"{self.path}: C puts out landmarks only, no layer {name!r}; compare its ONNX model instead")


def pixels(batch: NDArray[np.float32], spec: ModelSpec, where: str) -> NDArray[np.uint8]:
    """The BGR crops that a normalised batch came from: C normalises by itself."""
    mean, std = (np.asarray(v, dtype=np.float64).reshape(1, 3, 1, 1) for v in (spec.mean, spec.std))
    levels = (batch * std + mean) * 255
    whole = np.rint(levels)
    if (
        not np.abs(levels - whole).max(initial=0.0) <= _OFF_GRID
        or whole.min(initial=0) < 0
        or whole.max(initial=0) > 255
    ):
        raise UsageError(f"{where}: C takes pictures of 8 bits, this input was normalised in another way")
    crops = whole.astype(np.uint8).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(crops if spec.channels == "bgr" else crops[..., ::-1])
