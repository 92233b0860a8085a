"""`solution.txt` of the AFLW2000 challenge: one face a line, x1 y1 x2 y2 ... in pixels of its photo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.artefact import Precision, Run
from runtime.errors import InputError, UsageError
from runtime.files import read_bytes, sha256_bytes
from runtime.layouts import Layout
from runtime.spec import ModelSpec
from train.data.lines import MAX_COORDINATE

SUFFIX = ".txt"
MAX_BYTES = 256 << 20


def is_solution(path: Path | str) -> bool:
    """Whether a path names a solution, by its ending."""
    return Path(path).suffix.lower() == SUFFIX


def solution_text(points: NDArray[Any]) -> str:
    """Landmarks (F, N, 2) as text."""
    return "".join(" ".join(f"{v:.4f}" for v in face.reshape(-1)) + "\n" for face in points)


def read_solution(path: Path | str, faces: int, layout: Layout) -> NDArray[np.float64]:
    """Landmarks (F, N, 2), strictly: as many lines as faces, as many finite numbers as coordinates."""
    return _parse(read_bytes(path, MAX_BYTES), str(path), faces, layout)


def _parse(data: bytes, path: str, faces: int, layout: Layout) -> NDArray[np.float64]:
    try:
        lines = data.decode("utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text ({error.reason} at byte {error.start})") from None
    if len(lines) != faces:
        raise InputError(f"{path}: {len(lines)} lines, the data has {faces} faces; one line a face, in their order")
    points = np.empty((faces, layout.count, 2))
    for number, line in enumerate(lines, 1):
        cells = line.split()
        if len(cells) != 2 * layout.count:
            raise InputError(f"{path}:{number}: {len(cells)} numbers, expected x and y of {layout.count} points")
        try:
            values = np.array([float(cell) for cell in cells])
        except ValueError as error:
            raise InputError(f"{path}:{number}: {error}") from None
        if not (np.abs(values) <= MAX_COORDINATE).all():
            raise InputError(f"{path}:{number}: a coordinate is not finite or beyond any photo")
        points[number - 1] = values.reshape(-1, 2)
    return points


class SolutionFile:
    """A solution beside the artefacts that are measured: landmarks that somebody has predicted already."""

    kind = "solution"
    precision: Precision = "float32"
    own_spec = True
    layers: tuple[str, ...] = ()

    def __init__(self, path: Path, faces: int, layout: Layout) -> None:
        data = read_bytes(path, MAX_BYTES)
        self.path, self.sha256 = str(path), sha256_bytes(data)
        self.spec: ModelSpec | None = ModelSpec("solution", points=layout.count, layout=layout.name, normaliser="box")
        self._points = _parse(data, self.path, faces, layout)

    def points(self, indices: Sequence[int]) -> NDArray[np.float64]:
        """The landmarks of the chosen faces."""
        return self._points[list(indices)]

    def predict(self, batch: NDArray[np.float32]) -> NDArray[Any]:  # noqa: ARG002
        raise UsageError(f"{self.path}: landmarks of given faces, no model; it can only be measured")

    def layer(self, name: str) -> Run:
        raise UsageError(f"{self.path}: has no layer {name}")
