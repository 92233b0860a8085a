"""The ground floor: what goes on the device. Light by contract: numpy only, under 0.2 s to import, never torch."""

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

__all__ = [
    "IBUG68",
    "WFLW98",
    "Box",
    "CheckFailedError",
    "CropRule",
    "ExitCode",
    "InputError",
    "Layout",
    "MissingBackendError",
    "ModelSpec",
    "Normaliser",
    "Region",
    "ToolkitError",
    "UsageError",
    "crop_region",
]
