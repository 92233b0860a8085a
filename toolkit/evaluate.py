"""Accuracy of artefacts on labelled faces: each with its own spec, all on the same faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.artefact import Artefact, open_artefacts, require_spec
from runtime.errors import InputError, UsageError
from runtime.spec import ModelSpec
from train.data.sample import FaceSource
from train.evaluate import BATCH, Crops, Evaluation, crop_faces, evaluate, point_map

Tick = Callable[[str, int], object]
"""What is being done, and how many faces of it are finished."""


@dataclass(frozen=True)
class ArtefactScore:
    """One artefact's accuracy."""

    artefact: Artefact
    evaluation: Evaluation


@dataclass(frozen=True)
class Scoreboard:
    """Artefacts measured on the same faces."""

    data: str
    faces: tuple[str, ...]
    attributes: NDArray[np.bool_] | None
    rows: tuple[ArtefactScore, ...]

    def csv(self) -> str:
        """Each face's error under each artefact, as a fraction of the normaliser."""
        lines = [",".join(["face", *(_quoted(row.artefact.path) for row in self.rows)])]
        errors = np.stack([row.evaluation.errors for row in self.rows], axis=1)
        lines += [
            ",".join([_quoted(face), *(f"{error:.8g}" for error in values)])
            for face, values in zip(self.faces, errors, strict=True)
        ]
        return "\n".join(lines) + "\n"


def score_artefacts(
    paths: Sequence[Path | str],
    source: FaceSource,
    *,
    indices: Sequence[int] | None = None,
    normaliser: str | None = None,
    spec: str | None = None,
    batch_size: int = BATCH,
    progress: Tick | None = None,
) -> Scoreboard:
    """Measure every artefact; all files are opened and checked before the first face is cut."""
    if not paths:
        raise UsageError("give at least one checkpoint or ONNX file")
    artefacts = open_artefacts(paths, spec)
    specs = [require_spec(artefact) for artefact in artefacts]
    cut: dict[tuple[object, ...], Crops] = {}
    for artefact, one in zip(artefacts, specs, strict=True):
        _check_points(artefact, one, source)
    rows = []
    faces: tuple[str, ...] = ()
    attributes: NDArray[np.bool_] | None = None
    for artefact, one in zip(artefacts, specs, strict=True):
        key = (one.input_size, one.crop)
        if key not in cut:
            cut.clear()
            cut[key] = crop_faces(source, one, indices, lambda: progress("cropping", 1) if progress else None)
        crops = cut[key]
        faces, attributes = crops.names, crops.attributes

        def tick(done: int, name: str = Path(artefact.path).name) -> object:
            return progress(name, done) if progress else None

        with np.errstate(invalid="ignore"):  # what is not finite is an error two lines below
            result = evaluate(artefact.predict, crops, one, normaliser, batch_size, tick)
        if not np.isfinite(result.errors).all():
            raise InputError(f"{artefact.path}: gives NaN or infinity on {faces[int(np.argmax(result.errors))]}")
        rows.append(ArtefactScore(artefact, result))
    return Scoreboard(source.name, faces, attributes, tuple(rows))


def _check_points(artefact: Artefact, spec: ModelSpec, source: FaceSource) -> None:
    try:
        point_map(spec.point_layout, source.layout)
    except UsageError as error:
        raise UsageError(f"{artefact.path}: {error}") from error


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n') else text
