"""How a detector's boxes must be cut for a model: measured on labelled faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.crops import cut, map_back
from runtime.detect import Detection, Detector, FaceRule
from runtime.errors import InputError
from runtime.geometry import Box, crop_region
from runtime.landmarker import Landmarker
from train.data.sample import FaceSource
from train.evaluate import point_map

Tick = Callable[[str], object]
MIN_FACES = 10
_MIN_OVERLAP = 0.25
_SCALE_STEPS = (-0.12, -0.08, -0.04, 0.0, 0.04, 0.08, 0.12)
_SHIFT_STEPS = (-0.08, -0.04, 0.0, 0.04)


@dataclass(frozen=True)
class Fit:
    """A rule, and what it costs against a crop from the labels themselves."""

    rule: FaceRule
    faces: int
    found: int
    oracle: float
    """Mean NME with the crop that the labels give, on the faces that were kept back."""
    fitted: float
    """With the fitted rule, on the same faces."""
    current: float
    """With the detector's present rule."""
    second_pass: float
    """With the fitted rule and a second crop around the model's own landmarks."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "scale": self.rule.scale,
            "shift": list(self.rule.shift),
            "faces": self.faces,
            "found": self.found,
            "nme": {
                "oracle": self.oracle,
                "fitted": self.fitted,
                "current": self.current,
                "second_pass": self.second_pass,
            },
        }


@dataclass(frozen=True)
class _Pair:
    index: int
    truth: NDArray[np.float64]
    box: Box


def fit_rule(landmarker: Landmarker, source: FaceSource, indices: Sequence[int], tick: Tick | None = None) -> Fit:
    """Match detections with labels, fit on every second face, and measure on the others."""
    mapping = point_map(landmarker.spec.point_layout, source.layout)
    pairs = _pairs(landmarker.detector, source, indices, tick)
    if len(pairs) < MIN_FACES:
        raise InputError(
            f"{source.name}: {landmarker.detector.name} found {len(pairs)} of {len(indices)} labelled faces, "
            f"a rule needs {MIN_FACES}; give more faces, or photos with more room around them"
        )
    fitting, kept_back = pairs[::2], pairs[1::2]
    judge = _Judge(landmarker, source, mapping)
    start = _starting_rule(fitting)
    best, lowest = start, np.inf
    for scale, down in product(_SCALE_STEPS, _SHIFT_STEPS):
        rule = FaceRule(round(start.scale + scale, 3), (start.shift[0], round(start.shift[1] + down, 3)))
        error = judge.nme(fitting, [rule.apply(p.box) for p in fitting])
        if tick:
            tick(f"rule {rule.scale:.2f}, {rule.shift[1]:.2f}")
        if error < lowest:
            best, lowest = rule, error
    boxes = [best.apply(p.box) for p in kept_back]
    return Fit(
        best,
        len(indices),
        len(pairs),
        judge.nme(kept_back, [Box.around(p.truth[np.isfinite(p.truth).all(axis=1)]) for p in kept_back]),
        judge.nme(kept_back, boxes),
        judge.nme(kept_back, [landmarker.detector.rule.apply(p.box) for p in kept_back]),
        judge.nme(kept_back, boxes, passes=2),
    )


def steps_of(count: int) -> int:
    """How often `tick` is called for so many faces."""
    return count + len(_SCALE_STEPS) * len(_SHIFT_STEPS)


def _pairs(detector: Detector, source: FaceSource, indices: Sequence[int], tick: Tick | None) -> list[_Pair]:
    pairs = []
    looked_at: Any = None
    detections: list[Detection] = []
    for index in indices:
        sample = source.sample(index)
        if sample.image != looked_at:
            looked_at, detections = sample.image, detector(source.photo(index))
        truth = np.asarray(sample.points, dtype=np.float64)
        match = matching(detections, Box.around(truth))
        if match is not None:
            pairs.append(_Pair(index, truth, match.box))
        if tick:
            tick("detecting")
    return pairs


def matching(detections: Sequence[Detection], landmarks: Box) -> Detection | None:
    """The detection that overlaps a landmark box best, when it does so by a quarter of their union."""
    scored = [(_overlap(d.box, landmarks), -place, d) for place, d in enumerate(detections)]
    best = max(scored, default=None, key=lambda entry: entry[:2])
    return best[2] if best and best[0] >= _MIN_OVERLAP else None


def _overlap(one: Box, other: Box) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (one.width * one.height + other.width * other.height - shared)


def _starting_rule(pairs: Sequence[_Pair]) -> FaceRule:
    """Medians of how landmark boxes lie in detector boxes."""
    rows = []
    for pair in pairs:
        face = Box.around(pair.truth)
        longer = max(pair.box.width, pair.box.height)
        (fx, fy), (bx, by) = face.centre, pair.box.centre
        rows.append((max(face.width, face.height) / longer, (fx - bx) / longer, (fy - by) / longer))
    scale, right, down = (round(float(v), 3) for v in np.median(rows, axis=0))
    return FaceRule(scale, (right, down))


class _Judge:
    """Mean NME of given landmark squares; photos of the last face are kept."""

    def __init__(self, landmarker: Landmarker, source: FaceSource, mapping: NDArray[np.intp] | None) -> None:
        self._model, self._spec = landmarker.model, landmarker.spec
        self._source, self._mapping = source, mapping
        self._photos: dict[Any, Any] = {}

    def nme(self, pairs: Sequence[_Pair], boxes: Sequence[Box], passes: int = 1) -> float:
        normaliser = self._source.layout.default_normaliser
        errors = []
        for pair, square in zip(pairs, boxes, strict=True):
            photo, box = self._photo(pair.index), square
            for _ in range(passes):
                region = [crop_region(box, self._spec.crop)]
                points = map_back(self._model.landmarks(cut(photo, region, self._spec)), region, self._spec)[0]
                box = Box.around(points)
            found = points if self._mapping is None else points[self._mapping]
            away = np.hypot(*(found - pair.truth).T)
            errors.append(float(np.nanmean(away) / normaliser.distance(pair.truth)))
        return float(np.mean(errors))

    def _photo(self, index: int) -> Any:
        key = self._source.sample(index).image
        if key not in self._photos:
            if len(self._photos) > 300:
                self._photos.clear()
            self._photos[key] = self._source.photo(index)
        return self._photos[key]
