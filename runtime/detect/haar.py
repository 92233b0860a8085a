"""The classic cascade, where the installed OpenCV still has it."""

from __future__ import annotations

from pathlib import Path

from runtime.detect.protocol import Detection, FaceRule
from runtime.detect.scaling import box_in_photo, shrink
from runtime.errors import InputError, MissingBackendError
from runtime.images import Image
from runtime.lazy import require

RULE = FaceRule(scale=0.72, shift=(0.0, 0.06))
_FILE = "haarcascade_frontalface_default.xml"


def missing_reason() -> str | None:
    """Why there is no Haar cascade here; None where there is."""
    cv2 = require("cv2", "the Haar detector")
    if not hasattr(cv2, "CascadeClassifier"):
        return (
            f"OpenCV {cv2.__version__} has no Haar cascades (version 5 dropped them); use detector='yunet:FILE.onnx' "
            "or 'scrfd:FILE.onnx', or install opencv-python < 5"
        )
    folder = getattr(getattr(cv2, "data", None), "haarcascades", None)
    if folder is None or not (Path(folder) / _FILE).is_file():
        return f"OpenCV {cv2.__version__} came without {_FILE}"
    return None


class Haar:
    """`cv2.CascadeClassifier` for upright frontal faces: needs no model file, misses much. Not for two threads."""

    name = "Haar cascade"

    def __init__(self, *, longest: int = 1280, smallest: int = 20, rule: FaceRule | None = None) -> None:
        reason = missing_reason()
        if reason:
            raise MissingBackendError(reason)
        cv2 = require("cv2", "the Haar detector")
        path = Path(cv2.data.haarcascades) / _FILE
        self._net = cv2.CascadeClassifier(str(path))
        if self._net.empty():
            raise InputError(f"{path}: OpenCV cannot read its own cascade")
        self.rule = rule or RULE
        self._longest, self._smallest = longest, smallest

    def __call__(self, image: Image) -> list[Detection]:
        """Faces, largest first; the cascade gives no score."""
        cv2 = require("cv2", "the Haar detector")
        small, scale = shrink(image, self._longest)
        grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY))
        rows = self._net.detectMultiScale(grey, 1.1, 5, minSize=(self._smallest, self._smallest))
        boxes = [box_in_photo(float(x), float(y), float(x + w), float(y + h), scale) for x, y, w, h in rows]
        return [Detection(box) for box in sorted((b for b in boxes if b), key=lambda b: -b.width)]
