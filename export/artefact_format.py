"""A converted file of a bundle as an artefact: opened by its path, run by its engine in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from runtime.backends.formats import Format, Precision, located, open_net
from runtime.bundle import MANIFEST, Bundle
from runtime.errors import InputError, UsageError
from runtime.spec import ModelSpec

PRECISIONS: dict[Precision, Literal["float32", "float16", "int8"]] = {
    "fp32": "float32",
    "fp16": "float16",
    "int8": "int8",
}


def find_format(path: Path | str) -> tuple[Bundle, Format, Precision] | None:
    """The bundle that a converted file lies in; the file alone does not say what its input means."""
    found = located(path)
    home = Path(path).parent.parent
    if found is None or not (home / MANIFEST).is_file():
        return None
    return Bundle.open(home), *found


class FormatArtefact:
    """`BUNDLE/mnn/landmarks.mnn` and its like."""

    own_spec = True
    layers: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        found = find_format(path)
        if found is None:
            raise InputError(f"{path}: does not lie in a bundle, so nothing says what its input means")
        bundle, form, precision = found
        name = form.artefact(precision)
        self.path, self.kind = str(path), form.name
        self.sha256 = bundle.manifest.artefact(name).sha256
        self.spec: ModelSpec | None = bundle.spec
        self.precision = PRECISIONS[precision]
        weights = bundle.read(f"{name}{form.weights}") if form.weights else b""
        self._net = open_net(form.name, bundle.read(name), weights)

    def predict(self, batch: NDArray[np.float32]) -> NDArray[Any]:
        """Normalised float32 (B, 3, S, S) -> (B, 2N)."""
        return self._net(batch).reshape(len(batch), -1)

    def layer(self, name: str) -> NoReturn:
        """These engines fuse layers, each in its own way."""
        raise UsageError(f"{self.path}: puts out landmarks only, no layer {name!r}; compare its ONNX model instead")
