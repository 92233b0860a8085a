"""Two artefacts of one model held against each other on faces: specs, every layer that corresponds, landmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.artefact import Artefact, Precision, require_spec
from export.probes import ProbeFaces
from runtime.errors import InputError, UsageError
from runtime.geometry import output_to_points
from runtime.spec import ModelSpec

LAYER_FACES = 4
"""Layers are compared on the first few faces: a wrong weight shows on any, and every layer runs the net anew."""
BATCH = 8
INPUT = "input"

LIMITS_PX: dict[Precision, float] = {"float32": 0.01, "float16": 0.5, "int8": 5.0}
"""Largest landmark difference, in pixels of the input, that the coarser of two precisions explains."""
LAYER_LIMITS: dict[Precision, float] = {"float32": 1e-4, "float16": 2e-2, "int8": 0.5}
"""The same for one layer, as a share of its largest value."""
_COARSENESS: tuple[Precision, ...] = ("float32", "float16", "int8")


@dataclass(frozen=True)
class LayerGap:
    """How far apart two artefacts are behind one layer."""

    name: str
    difference: float
    """Largest absolute difference; infinite where shapes differ or a value is not finite."""
    scale: float
    """Largest absolute value of the second artefact; not a number where the two cannot be compared."""
    relative: float
    limit: float

    @property
    def bad(self) -> bool:
        return not self.relative <= self.limit


@dataclass(frozen=True)
class PointGap:
    """How far apart the landmarks are, over all faces."""

    mean_px: float
    max_px: float
    mean_percent: float
    """Of each face's own size, see `size`."""
    max_percent: float
    size: str
    """inter-ocular, or box."""
    worst_face: str
    worst_point: int


@dataclass(frozen=True)
class Comparison:
    """What was found, worst cause first."""

    first: str
    second: str
    faces: str
    spec_differences: tuple[str, ...]
    """Fields of the spec that change what the network sees or what its output means."""
    notes: tuple[str, ...]
    layers: tuple[LayerGap, ...]
    points: PointGap
    limit_px: float
    first_bad: str | None
    """The first layer over its limit; where none is and the landmarks are, the layer where the gap grows most."""

    @property
    def passed(self) -> bool:
        return self.points.max_px <= self.limit_px


def compare(
    first: Artefact,
    second: Artefact,
    probes: ProbeFaces,
    *,
    limit_px: float | None = None,
    layer_limit: float | None = None,
    same_input: bool = False,
    layers: bool = True,
    progress: Callable[[str], object] | None = None,
) -> Comparison:
    """Compare outputs on all faces and layers on a few; each artefact gets its own input unless `same_input`."""
    spec_a, spec_b, notes = _specs(first, second)
    differences = _spec_differences(spec_a, spec_b)
    coarser = max(first.precision, second.precision, key=_COARSENESS.index)
    limit = LIMITS_PX[coarser] if limit_px is None else limit_px
    gap_limit = LAYER_LIMITS[coarser] if layer_limit is None else layer_limit
    if same_input and spec_a.input_size != spec_b.input_size:
        raise UsageError(f"--same-input: the inputs are {spec_a.input_size} and {spec_b.input_size} pixels wide")
    fed_b = spec_a if same_input else spec_b
    input_a, regions_a = probes.crop(spec_a)
    input_b, regions_b = (input_a, regions_a) if fed_b == spec_a else probes.crop(fed_b)
    gaps: list[LayerGap] = []
    if layers:
        names, why = _common_layers(first, second, spec_a, spec_b)
        notes += why
        some_a, some_b = input_a[:LAYER_FACES], input_b[:LAYER_FACES]
        gaps.append(_gap(INPUT, some_a, some_b, gap_limit))
        for name in names:
            # Nothing but this layer's two tensors is alive, and they only until the next line is done.
            gaps.append(_gap(name, first.layer(name)(some_a), second.layer(name)(some_b), gap_limit))
            if progress is not None:
                progress(name)
    sides = np.array([spec_a.input_size / region.side for region in regions_a])
    points_a = _points(first, input_a, regions_a, spec_a)
    points_b = _points(second, input_b, regions_b, fed_b)
    points = _point_gap(points_a, points_b, sides, probes)
    bad = next((gap.name for gap in gaps if gap.bad), None)
    if bad is None and points.max_px > limit:
        bad = _steepest(gaps)
    return Comparison(
        first.path, second.path, probes.name, tuple(differences), tuple(notes), tuple(gaps), points, limit, bad
    )


def _specs(first: Artefact, second: Artefact) -> tuple[ModelSpec, ModelSpec, list[str]]:
    if first.spec is None and second.spec is None:
        raise InputError(
            f"{first.path}, {second.path}: neither says what its input means; name a preset or a spec file with --spec"
        )
    notes = [f"{a.path} carries no spec, the other's is used" for a in (first, second) if a.spec is None]
    spec_a, spec_b = first.spec or require_spec(second), second.spec or require_spec(first)
    if spec_a.layout != spec_b.layout:
        raise UsageError(
            f"{first.path} puts out {spec_a.points} points ({spec_a.layout}), {second.path} {spec_b.points} "
            f"({spec_b.layout}); only models of one layout can be compared"
        )
    return spec_a, spec_b, notes


def _spec_differences(a: ModelSpec, b: ModelSpec) -> list[str]:
    """Differences that matter for the same weights; branches only exist before fusing, scoring is not output."""
    found = []
    for field in fields(ModelSpec):
        if field.name in ("branches", "flip", "normaliser", "crop"):
            continue
        one, other = getattr(a, field.name), getattr(b, field.name)
        if one != other:
            found.append(f"{field.name.replace('_', ' ')}: {_said(one)} against {_said(other)}")
    for field in fields(type(a.crop)):
        one, other = getattr(a.crop, field.name), getattr(b.crop, field.name)
        if one != other:
            found.append(f"crop {field.name}: {_said(one)} against {_said(other)}")
    return found


def _said(value: Any) -> str:
    return ", ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


def _common_layers(
    first: Artefact, second: Artefact, spec_a: ModelSpec, spec_b: ModelSpec
) -> tuple[list[str], list[str]]:
    """Names of the layers that correspond, and a note where not all do."""
    shared = [name for name in first.layers if name in set(second.layers)]
    if len(shared) == len(first.layers) == len(second.layers):
        return shared, []
    counts = f"{len(first.layers)} against {len(second.layers)} weighted layers"
    if not shared or spec_a.architecture != spec_b.architecture:
        return [], [f"layers do not correspond ({counts}); only the landmarks were compared"]
    return shared, [f"{len(shared)} layers correspond ({counts})"]


def _gap(name: str, a: NDArray[Any], b: NDArray[Any], limit: float) -> LayerGap:
    if a.shape != b.shape or not np.isfinite(a).all() or not np.isfinite(b).all():
        return LayerGap(name, float("inf"), float("nan"), float("inf"), limit)
    difference = float(np.abs(a.astype(np.float64) - b).max())
    scale = float(np.abs(b).max())
    relative = difference / scale if scale else (0.0 if not difference else float("inf"))
    return LayerGap(name, difference, scale, relative, limit)


def _steepest(gaps: list[LayerGap]) -> str | None:
    """The layer behind which the relative gap grows most."""
    if len(gaps) < 2:
        return None
    floor = 1e-7
    growth = [max(b.relative, floor) / max(a.relative, floor) for a, b in pairwise(gaps)]
    return gaps[1 + int(np.argmax(growth))].name


def _points(artefact: Artefact, inputs: NDArray[np.float32], regions: Any, spec: ModelSpec) -> NDArray[np.float64]:
    """Landmarks of all faces in photo pixels."""
    points = np.empty((len(inputs), spec.points, 2))
    for start in range(0, len(inputs), BATCH):
        batch = inputs[start : start + BATCH]
        output = np.asarray(artefact.predict(batch), dtype=np.float64)
        if output.shape != (len(batch), 2 * spec.points):
            raise InputError(f"{artefact.path}: puts out {output.shape[1:]} values, its spec says {2 * spec.points}")
        for row, face in enumerate(output.reshape(len(batch), spec.points, 2), start):
            points[row] = output_to_points(face, regions[row], spec)
    return points


def _point_gap(
    a: NDArray[np.float64], b: NDArray[np.float64], per_pixel: NDArray[np.float64], probes: ProbeFaces
) -> PointGap:
    photo = np.hypot(*np.moveaxis(a - b, -1, 0))
    photo = np.where(np.isfinite(photo), photo, np.inf)
    pixels = photo * per_pixel[:, None]
    size, name = probes.face_size()
    percent = 100 * photo / size[:, None]
    face, point = np.unravel_index(int(np.argmax(pixels)), pixels.shape)
    sample = probes.source.sample(probes.indices[int(face)])
    return PointGap(
        float(pixels.mean()),
        float(pixels.max()),
        float(percent.mean()),
        float(percent.max()),
        name,
        sample.origin or str(sample.image),
        int(point),
    )
