"""OpenCV's YuNet; the model file is the user's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np

from runtime.detect.protocol import Detection, FaceRule
from runtime.detect.scaling import box_in_photo, pad, shrink, unscale
from runtime.errors import InputError, MissingBackendError
from runtime.files import require_file
from runtime.images import Image
from runtime.lazy import require

RULE = FaceRule(0.81, (-0.01, 0.12))
"""Fitted by `toolkit fit-crop` on WFLW faces."""
_SMALLEST = 32
_ERRORS_ONLY = 2


class YuNet:
    """`cv2.FaceDetectorYN` on pictures shrunk to at most `longest` pixels. Not for two threads at a time."""

    name = "YuNet"

    def __init__(
        self,
        model: Path | str,
        *,
        score: float = 0.6,
        overlap: float = 0.3,
        longest: int = 1280,
        rule: FaceRule | None = None,
    ) -> None:
        cv2 = require("cv2", "the detector YuNet")
        if not hasattr(cv2, "FaceDetectorYN"):
            raise MissingBackendError(f"OpenCV {cv2.__version__} has no FaceDetectorYN; install opencv-python >= 4.8")
        path = require_file(model)
        try:
            with _quiet(cv2):
                self._net = cv2.FaceDetectorYN.create(str(path), "", (320, 320), score, overlap, 5000)
        except cv2.error as error:
            raise InputError(f"{path}: OpenCV cannot read it as a YuNet model: {_short(error)}") from error
        self.rule = rule or RULE
        self._longest = longest
        self._path = path

    def __call__(self, image: Image) -> list[Detection]:
        """Faces with eyes, best first."""
        cv2 = require("cv2", "the detector YuNet")
        small, scale = shrink(image, self._longest)
        height, width = (max(_SMALLEST, side) for side in small.shape[:2])
        try:
            self._net.setInputSize((width, height))
            rows = self._net.detect(pad(small, width, height))[1]
        except cv2.error as error:
            raise InputError(f"{self._path}: does not run as a YuNet model: {_short(error)}") from error
        found = []
        for row in np.zeros((0, 15)) if rows is None else np.asarray(rows, dtype=np.float64):
            x, y, w, h = row[:4]
            box = box_in_photo(x, y, x + w, y + h, scale)
            if box is None:
                continue
            points = [(unscale(row[4 + 2 * i], scale), unscale(row[5 + 2 * i], scale)) for i in range(2)]
            found.append(Detection(box, float(row[14]), (points[0], points[1])))
        return sorted(found, key=lambda d: -(d.score or 0))


@contextmanager
def _quiet(cv2: ModuleType) -> Iterator[None]:
    """OpenCV 5 warns of a setting that nobody made."""
    logging = getattr(cv2.utils, "logging", None)
    if logging is None:
        yield
        return
    before = logging.getLogLevel()
    logging.setLogLevel(_ERRORS_ONLY)
    try:
        yield
    finally:
        logging.setLogLevel(before)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
