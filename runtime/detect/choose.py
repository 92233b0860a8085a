"""Detectors by name: `yunet:FILE`, `scrfd:FILE`, `retinaface:FILE`, `haar`, `whole`, `auto`."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from runtime.detect.protocol import Detector, FaceRule
from runtime.errors import UsageError

WITH_FILE = {
    "yunet": ("runtime.detect.yunet", "YuNet"),
    "scrfd": ("runtime.detect.anchors", "Scrfd"),
    "retinaface": ("runtime.detect.anchors", "RetinaFace"),
}
WITHOUT_FILE = {
    "haar": ("runtime.detect.haar", "Haar"),
    "whole": ("runtime.detect.whole", "WholeImage"),
}
VARIABLE = "LANDMARK_DETECTOR"
"""Names the detector that "auto" takes."""

_announced: set[str] = set()


def open_detector(name: str, rule: FaceRule | None = None) -> Detector:
    """Open a detector by name; a plain path is taken for what its file name says."""
    if name == "auto":
        return _auto(rule)
    kind, _, file = name.partition(":")
    if kind in WITHOUT_FILE and not file:
        return _make(WITHOUT_FILE[kind], (), rule)
    if kind in WITH_FILE:
        if not file:
            raise UsageError(f"detector {name!r}: give its model file, {kind}:MODEL.onnx")
        return _make(WITH_FILE[kind], (file,), rule)
    for known, place in WITH_FILE.items():
        if known in Path(name).name.lower():
            return _make(place, (name,), rule)
    known = ", ".join([*WITHOUT_FILE, *(f"{kind}:FILE" for kind in WITH_FILE)])
    raise UsageError(f"unknown detector {name!r}; known: auto, {known}")


def _make(place: tuple[str, str], arguments: tuple[str, ...], rule: FaceRule | None) -> Detector:
    made: Detector = getattr(importlib.import_module(place[0]), place[1])(*arguments, rule=rule)
    return made


def _auto(rule: FaceRule | None) -> Detector:
    named = os.environ.get(VARIABLE)
    if named and named != "auto":
        return open_detector(named, rule)
    from runtime.detect.haar import missing_reason

    reason = missing_reason()
    if reason is None:
        _say(f"detector: Haar cascade (no other was named; set {VARIABLE} or detector=)")
        return open_detector("haar", rule)
    _say(f"detector: none, the whole image is taken as one face ({reason}; or set {VARIABLE})")
    return open_detector("whole", rule)


def _say(message: str) -> None:
    if message not in _announced:
        _announced.add(message)
        print(message, file=sys.stderr)
