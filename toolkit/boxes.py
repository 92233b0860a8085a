"""Where the face box comes from when accuracy is measured: the labels, the list's rectangle, or a detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import UsageError
from runtime.geometry import Box
from runtime.spec import ModelSpec
from train.data.sample import FaceSource
from train.evaluate import face_box

if TYPE_CHECKING:
    from runtime.detect import Detector

MIN_OVERLAP = 0.25
"""Least intersection over union with the landmark box for a detection to be this face."""
_PLAIN = {"landmarks": "landmarks", "rect": "annotation"}


class BoxSource:
    """Boxes by name; `rect` is what the list's rectangle columns say."""

    name = "spec"

    def in_words(self, spec: ModelSpec) -> ModelSpec:
        """The spec whose crop rule says where its box comes from, so that it stands beside every number."""
        return spec

    def usable(self, source: FaceSource, indices: Sequence[int], tick: Callable[[], object]) -> list[int]:  # noqa: ARG002
        """The faces that have a box."""
        return list(indices)

    box_of: Callable[[FaceSource, int], Box] | None = None


class _Plain(BoxSource):
    def __init__(self, name: str | None) -> None:
        self.name = name or "spec"
        self._box = None if name is None else _PLAIN[name]

    def in_words(self, spec: ModelSpec) -> ModelSpec:
        return spec if self._box is None else replace(spec, crop=replace(spec.crop, box=self._box))


class DetectedBoxes(BoxSource):
    """The detection that covers the labelled face best, brought to a landmark box by the detector's own rule."""

    def __init__(self, detector: Detector, name: str) -> None:
        self.name = f"detector {name}"
        self._detector = detector
        self._found: dict[int, Box | None] = {}
        self.box_of = self._box

    def in_words(self, spec: ModelSpec) -> ModelSpec:
        return replace(spec, crop=replace(spec.crop, box=self.name[:64]))

    def usable(self, source: FaceSource, indices: Sequence[int], tick: Callable[[], object]) -> list[int]:
        for index in indices:
            self._found[index] = self._detect(source, index)
            tick()
        return [index for index in indices if self._found[index] is not None]

    def _box(self, source: FaceSource, index: int) -> Box:
        box = self._found.get(index) or self._detect(source, index)
        if box is None:
            raise UsageError(f"{source.name}: face {index} was not detected")
        return box

    def _detect(self, source: FaceSource, index: int) -> Box | None:
        truth = Box.around(np.asarray(source.sample(index).points, dtype=np.float64))
        rule = self._detector.rule
        boxes = [rule.apply(detection.box) for detection in self._detector(source.photo(index))]
        best = max(boxes, key=lambda box: overlap(box, truth), default=None)
        return best if best is not None and overlap(best, truth) >= MIN_OVERLAP else None


def overlap(a: Box, b: Box) -> float:
    """Intersection over union.

    >>> overlap(Box(0, 0, 2, 2), Box(1, 0, 3, 2))
    0.3333333333333333
    """
    wide = min(a.x1, b.x1) - max(a.x0, b.x0)
    high = min(a.y1, b.y1) - max(a.y0, b.y0)
    if wide <= 0 or high <= 0:
        return 0.0
    shared = wide * high
    return shared / (a.width * a.height + b.width * b.height - shared)


def plain_boxes(name: str | None) -> BoxSource:
    """The spec's own box, or the one named."""
    return _Plain(name)


def open_boxes(text: str | None) -> BoxSource:
    """What `--crop` says: landmarks, rect or detector:NAME (such as detector:yunet:FILE)."""
    if text is None or text in _PLAIN:
        return plain_boxes(text)
    kind, _, name = text.partition(":")
    if kind != "detector" or not name:
        raise UsageError(f"--crop {text}: expected landmarks, rect or detector:NAME, such as detector:yunet:FILE")
    from runtime.detect.choose import open_detector

    detector = open_detector(name)
    return DetectedBoxes(detector, getattr(detector, "name", name.split(":")[0]))


def box_in(source: FaceSource, index: int, spec: ModelSpec, boxes: BoxSource) -> Box:
    """The box of one face."""
    return boxes.box_of(source, index) if boxes.box_of is not None else face_box(source.sample(index), spec)
