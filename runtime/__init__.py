"""The ground floor: what goes on the device. Light by contract: numpy only, under 0.2 s to import, never torch."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from runtime.errors import (
    CheckFailedError,
    ExitCode,
    InputError,
    MissingBackendError,
    ToolkitError,
    UsageError,
)
from runtime.geometry import Box, Region, crop_region
from runtime.layouts import IBUG68, WFLW98, Layout, Normaliser
from runtime.spec import CropRule, ModelSpec

# ONNX Runtime 1.29 and later report sessions and models to their makers unless this is set before it starts. Nothing of
# ours uses the network; ORT_DISABLE_TELEMETRY=0 allows it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from runtime.detect import FaceRule
    from runtime.draw import draw_faces
    from runtime.face import Face
    from runtime.landmarker import Landmarker
    from runtime.track import FaceTracker, TrackSettings

__all__ = [
    "IBUG68",
    "WFLW98",
    "Box",
    "CheckFailedError",
    "CropRule",
    "ExitCode",
    "Face",
    "FaceRule",
    "FaceTracker",
    "InputError",
    "Landmarker",
    "Layout",
    "MissingBackendError",
    "ModelSpec",
    "Normaliser",
    "Region",
    "ToolkitError",
    "TrackSettings",
    "UsageError",
    "crop_region",
    "draw_faces",
]

_LATER = {
    "Face": "runtime.face",
    "FaceRule": "runtime.detect",
    "FaceTracker": "runtime.track",
    "Landmarker": "runtime.landmarker",
    "TrackSettings": "runtime.track",
    "draw_faces": "runtime.draw",
}
"""Imported when first asked for."""


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 'runtime' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
