"""A labelling job: faces in pieces, each piece kept on disk when done, so that an interrupted job goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, UsageError
from runtime.files import read_json, write_atomic, write_json
from runtime.geometry import Box
from runtime.images import Image
from runtime.layouts import Layout
from train.data.photos import outside_photo
from train.data.sample import FaceSample, FaceSource
from train.evaluate import point_map
from train.label.ensemble import Ensemble, face_sizes
from train.label.pin import pin
from train.label.rules import KEPT, OUTSIDE, UNREADABLE, Rules

PIECE = 32
"""Faces in a piece."""
JOB_NAME = "job.json"
Progress = Callable[[int], object]


@dataclass(frozen=True)
class Labels:
    """What came of every face of a source, in its order."""

    points: NDArray[np.float32]
    """(F, N, 2) photo pixels; NaN rows for faces without a label."""
    weights: NDArray[np.float32]
    """(F, N)"""
    disagreement: NDArray[np.float32]
    """(F,) mean spread, as a fraction of the face's size; NaN for faces without a label."""
    distance: NDArray[np.float32]
    """(F,) mean distance of the prediction from the known points; NaN where none is known."""
    fates: tuple[str, ...]
    spread: NDArray[np.float32]
    """(F, N)"""

    def __len__(self) -> int:
        return len(self.points)

    @property
    def kept(self) -> list[int]:
        """Faces that are kept."""
        return [index for index, fate in enumerate(self.fates) if fate == KEPT]

    def counts(self) -> dict[str, int]:
        """How many faces met each fate."""
        return {fate: self.fates.count(fate) for fate in dict.fromkeys(self.fates)}


def settings_of(ensemble: Ensemble, rules: Rules, source: FaceSource, refine: int) -> dict[str, Any]:
    """All that decides the labels, as plain data."""
    return {
        "source": source.name,
        "faces": len(source),
        "labels": _digest(source),
        "layout": ensemble.layout.name,
        "models": [{"name": Path(m.name).name, "sha256": m.digest, "weight": m.weight} for m in ensemble.members],
        "variations": [asdict(variation) for variation in ensemble.variations],
        "combine": ensemble.combine,
        "refine": refine,
        "rules": rules.to_dict(),
    }


def _digest(source: FaceSource) -> str:
    digest = hashlib.sha256()
    for index in range(len(source)):
        sample = source.sample(index)
        digest.update(f"{sample.image.name} {sample.box}".encode("utf-8", "surrogateescape"))
        digest.update(np.ascontiguousarray(sample.points, dtype=np.float32).tobytes())
    return digest.hexdigest()


def check_pin(source_layout: Layout, model_layout: Layout, rules: Rules) -> NDArray[np.intp] | None:
    """For each point of the source, its place among the model's; None when the source has no points to pin to."""
    try:
        return point_map(model_layout, source_layout)
    except UsageError:
        if rules.pin:
            raise UsageError(
                f"--pin: the faces have the points {source_layout.name}, the models {model_layout.name}; "
                "there is no map between them"
            ) from None
        return None


def label_faces(
    source: FaceSource,
    ensemble: Ensemble,
    rules: Rules,
    folder: Path,
    *,
    refine: int | None = None,
    progress: Progress | None = None,
) -> tuple[Labels, dict[str, Any]]:
    """Label every face; pieces lie in `folder`, where a job of the same settings goes on. Gives labels and settings."""
    places = check_pin(source.layout, ensemble.layout, rules)
    rounds = refine if refine is not None else int(not _labelled(source.sample(0)))
    settings = settings_of(ensemble, rules, source, rounds)
    _claim(folder, settings)
    pieces = []
    for start in range(0, len(source), PIECE):
        faces = range(start, min(start + PIECE, len(source)))
        path = folder / f"{start:07d}.npz"
        piece = _read_piece(path, len(faces), ensemble.layout.count)
        if piece is None:
            piece = _piece(source, faces, ensemble, rules, places, rounds)
            write_atomic(path, lambda stream, done=piece: np.savez(stream, **done))  # type: ignore[misc]
        pieces.append(piece)
        if progress is not None:
            progress(len(faces))
    joined = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    fates = tuple(str(fate) for fate in joined.pop("fates"))
    return Labels(fates=fates, **joined), settings


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Make the job's folder, or check that the job in it is this one."""
    path = folder / JOB_NAME
    if not path.is_file():
        write_json(path, settings)
        return
    before = read_json(path)
    if before == json.loads(json.dumps(settings)):
        return
    changed = sorted(k for k in settings if not isinstance(before, dict) or before.get(k) != settings[k])
    raise UsageError(
        f"{folder}: holds an unfinished job with another {', '.join(changed) or 'form'}; repeat its command to go on, "
        "or remove that folder"
    )


def _read_piece(path: Path, faces: int, points: int) -> dict[str, NDArray[Any]] | None:
    if not path.is_file():
        return None
    shapes = {
        "points": (faces, points, 2),
        "weights": (faces, points),
        "spread": (faces, points),
        "disagreement": (faces,),
        "distance": (faces,),
        "fates": (faces,),
    }
    try:
        with np.load(path, allow_pickle=False) as content:
            piece = {name: content[name] for name in shapes}
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return piece if all(piece[name].shape == shape for name, shape in shapes.items()) else None


def _labelled(sample: FaceSample) -> bool:
    return bool(np.isfinite(sample.points).any())


def _box(sample: FaceSample) -> Box:
    if _labelled(sample):
        return Box.around(np.asarray(sample.points, dtype=np.float64))
    if sample.box is None:
        raise InputError(f"{sample.origin or sample.image}: no point and no box tells where the face is")
    return Box(*sample.box)


def _piece(
    source: FaceSource,
    faces: range,
    ensemble: Ensemble,
    rules: Rules,
    places: NDArray[np.intp] | None,
    rounds: int,
) -> dict[str, NDArray[Any]]:
    """Label some faces."""
    count, number = ensemble.layout.count, len(faces)
    fates = np.full(number, UNREADABLE, dtype="<U16")
    points = np.full((number, count, 2), np.nan, dtype=np.float32)
    weights, spread = np.zeros((number, count), np.float32), np.full((number, count), np.nan, np.float32)
    disagreement, distance = np.full(number, np.nan, np.float32), np.full(number, np.nan, np.float32)
    rows, photos, boxes = _readable(source, faces)
    if rows:
        boxes = ensemble.refined(photos, boxes, rounds)
        opinion = ensemble(photos, boxes)
        for at, row in enumerate(rows):
            sample, face = source.sample(faces[row]), opinion.points[at]
            disagreement[row] = opinion.disagreement[at]
            spread[row] = opinion.spread[at]
            known = _known(sample, places, count)
            labelled = np.isfinite(known).all(1)
            if labelled.any():
                gap = np.hypot(*(face[labelled] - known[labelled]).T)
                distance[row] = gap.mean() / face_sizes(face[None])[0]
            doubt = opinion.spread[at]
            if rules.pin and labelled.any():
                face, doubt = pin(face, known), np.where(labelled, 0.0, doubt)
            fate = rules.fate(float(disagreement[row]), float(distance[row]))
            height, width = photos[at].shape[:2]
            if fate == KEPT and outside_photo(face.astype(np.float32), (width, height)):
                fate = OUTSIDE
            fates[row], points[row], weights[row] = fate, face, rules.weights(doubt)
    return {
        "points": points,
        "weights": weights,
        "spread": spread,
        "disagreement": disagreement,
        "distance": distance,
        "fates": fates,
    }


def _readable(source: FaceSource, faces: range) -> tuple[list[int], list[Image], list[Box]]:
    rows, photos, boxes = [], [], []
    photo_of, photo = None, None
    for row, index in enumerate(faces):
        sample = source.sample(index)
        if photo is None or sample.image != photo_of:
            try:
                photo_of, photo = sample.image, source.photo(index)
            except InputError:
                photo_of, photo = None, None
                continue
        rows.append(row)
        photos.append(photo)
        boxes.append(_box(sample))
    return rows, photos, boxes


def _known(sample: FaceSample, places: NDArray[np.intp] | None, count: int) -> NDArray[np.float64]:
    """The labelled points of a face among the model's points; NaN elsewhere."""
    known = np.full((count, 2), np.nan)
    if places is not None and _labelled(sample):
        known[places] = sample.points
    return known
