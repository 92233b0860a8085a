"""Landmark toolkit: train, fuse, prove, quantise and ship face-landmark models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.face import Face
    from runtime.landmarker import Landmarker
    from runtime.track import FaceTracker

__version__ = "0.1.0"
__all__ = ["Face", "FaceTracker", "Landmarker", "__version__"]


def __getattr__(name: str) -> Any:
    """The runtime's front door, imported when first asked for."""
    if name in ("Face", "FaceTracker", "Landmarker"):
        import runtime

        return getattr(runtime, name)
    raise AttributeError(f"module 'toolkit' has no attribute {name!r}")
