"""Every face of a picture in a few lines: `Landmarker("bundle/")("photo.jpg")`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from runtime.backends.choose import open_backend
from runtime.backends.protocol import FaceModel
from runtime.bundle import Bundle
from runtime.confidence import SCORES, ScoreKind, score
from runtime.crops import cut, has_opencv, map_back
from runtime.detect.choose import open_detector
from runtime.detect.protocol import LANDMARK_RULE, Detection, Detector, FaceRule
from runtime.errors import InputError, UsageError
from runtime.face import Face
from runtime.geometry import Box, Region, crop_region
from runtime.images import Image
from runtime.inputs import ImageLike, as_image

BoxLike: TypeAlias = "Box | Sequence[float] | NDArray[Any]"
MAX_FACES = 2000
BATCH = 64
"""Faces per run of the network; more are cut into pieces, so that a crowd costs no memory."""


@dataclass(frozen=True)
class Times:
    """Seconds per stage of one picture."""

    decode: float = 0.0
    detect: float = 0.0
    crop: float = 0.0
    model: float = 0.0
    back: float = 0.0
    score: float = 0.0

    def __add__(self, other: Times) -> Times:
        return Times(*(mine + its for mine, its in zip(self.stages.values(), other.stages.values(), strict=True)))

    @property
    def stages(self) -> dict[str, float]:
        return {
            "decode": self.decode,
            "detect": self.detect,
            "crop": self.crop,
            "model": self.model,
            "back": self.back,
            "score": self.score,
        }

    @property
    def total(self) -> float:
        return sum(self.stages.values())


@dataclass(frozen=True)
class Result:
    """The faces of one picture, and where the time went."""

    faces: list[Face]
    times: Times
    image: Image
    """The decoded picture, BGR."""


class Landmarker:
    """Landmarks of every face in a picture, on the back end that a bundle has and this machine can run.

    `detector` is a name (`yunet:FILE`, `scrfd:FILE`, `retinaface:FILE`, `haar`, `whole`, `auto`) or any object with the
    members of `runtime.detect.Detector`. `passes=2` cuts every face a second time, around its own landmarks of the
    first pass. `upright=True` turns crops by the detector's eye line. `score` is how `Face.score` is found: "flip" runs
    the network a second time, on mirrored crops; "shape" is free and much weaker; "none" leaves it nan.

    A landmarker may be shared between threads as far as its back end and detector may: ONNX Runtime and SCRFD may,
    YuNet and Haar may not; with those make one landmarker per thread.
    """

    def __init__(
        self,
        bundle: Bundle | FaceModel | PathLike[str] | str,
        backend: str = "auto",
        detector: Detector | str = "auto",
        *,
        box_rule: FaceRule = LANDMARK_RULE,
        passes: int = 1,
        upright: bool = False,
        score: ScoreKind = "flip",
        threads: int = 1,
    ) -> None:
        if passes not in (1, 2):
            raise UsageError(f"passes={passes!r}: expected 1 or 2")
        if score not in SCORES:
            raise UsageError(f"score={score!r}: expected {', '.join(SCORES)}")
        if threads < 1:
            raise UsageError(f"threads={threads}: expected at least 1")
        self._detector = open_detector(detector) if isinstance(detector, str) and ":" in detector else detector
        if isinstance(bundle, (str, PathLike)):
            bundle = Bundle.open(Path(bundle))
        if isinstance(bundle, Bundle):
            choice = open_backend(bundle, backend, threads)
            self.model, self.backend, self.why = choice.model, choice.name, choice.why
        else:
            self.model, self.backend, self.why = bundle, bundle.name, "given"
        self.spec = self.model.spec
        self.box_rule = box_rule
        self._passes, self._upright, self._score = passes, upright, score

    @property
    def detector(self) -> Detector:
        """The detector, opened when it is first needed."""
        if isinstance(self._detector, str):
            self._detector = open_detector(self._detector)
        return self._detector

    def __call__(
        self, image: ImageLike, boxes: Sequence[BoxLike] | NDArray[Any] | None = None, *, rgb: bool = False
    ) -> list[Face]:
        """The faces of a picture: an array (BGR, or RGB with `rgb=True`; grey and BGRA too), a path, or bytes.

        `boxes` are (x0, y0, x1, y1) in image pixels; with them no detector is asked. `box_rule` says how they relate to
        landmark boxes: equal, unless the landmarker was told otherwise.
        """
        return self.run(image, boxes, rgb=rgb).faces

    def run(
        self, image: ImageLike, boxes: Sequence[BoxLike] | NDArray[Any] | None = None, *, rgb: bool = False
    ) -> Result:
        """The same with the time of every stage and the decoded picture."""
        start = time.perf_counter()
        photo = as_image(image, rgb)
        decoded = time.perf_counter()
        if boxes is None:
            rule, detections = self.detector.rule, self.detector(photo)[:MAX_FACES]
        else:
            rule, detections = self.box_rule, [Detection(as_box(box)) for box in _checked(boxes)]
        detected = time.perf_counter()
        regions = [self.region_of(detection, rule) for detection in detections]
        faces, times = self.locate(photo, regions, detections, squares=[rule.apply(d.box) for d in detections])
        return Result(faces, replace(times, decode=decoded - start, detect=detected - decoded), photo)

    def region_of(self, detection: Detection, rule: FaceRule) -> Region:
        """The square to cut for a detection."""
        region = crop_region(rule.apply(detection.box), self.spec.crop)
        if self._upright and detection.eyes is not None:
            (x0, y0), (x1, y1) = detection.eyes
            return replace(region, angle=float(np.arctan2(y1 - y0, x1 - x0)))
        return region

    def region_around(self, points: NDArray[Any], angle: float = 0.0) -> Region:
        """The square to cut around known landmarks, in the frame of a crop turned by `angle`."""
        if not angle:
            return crop_region(Box.around(points), self.spec.crop)
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, sin], [-sin, cos]])
        level = crop_region(Box.around(points @ turn.T), replace(self.spec.crop, rounding="none"))
        cx, cy = turn.T @ [level.cx, level.cy]
        return Region(float(cx), float(cy), level.side, angle)

    def locate(
        self,
        image: Image,
        regions: Sequence[Region],
        detections: Sequence[Detection],
        *,
        passes: int | None = None,
        kind: ScoreKind | None = None,
        squares: Sequence[Box] | None = None,
    ) -> tuple[list[Face], Times]:
        """Landmarks of given squares of the picture, all in one batch; `passes` and `kind` of score as set up.

        `squares` are the landmark boxes that the regions were made of: where OpenCV is not installed, the C back end
        cuts its crops from them.
        """
        crops, points, outputs, times = self._through(image, regions, squares)
        if (passes or self._passes) == 2:
            regions = [
                self.region_around(p, r.angle) if _usable(p) else r for p, r in zip(points, regions, strict=True)
            ]
            crops, points, outputs, second = self._through(image, regions)
            times = times + second
        start = time.perf_counter()
        scores = score(kind or self._score, self.model, crops, outputs)
        scored = time.perf_counter()
        in_crop = (outputs * np.float32(self.spec.input_size) - np.float32(0.5)).astype(np.float32)
        layout = self.spec.layout
        faces = [
            Face(d.box, points[i], in_crop[i], regions[i], float(scores[i]), d.score, None, layout)
            for i, d in enumerate(detections)
        ]
        return faces, replace(times, back=times.back + time.perf_counter() - scored, score=scored - start)

    def _through(
        self, image: Image, regions: Sequence[Region], squares: Sequence[Box] | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32], Times]:
        start = time.perf_counter()
        crops = self._cut(image, regions, squares)
        cropped = time.perf_counter()
        pieces = [self.model.landmarks(crops[at : at + BATCH]) for at in range(0, max(len(crops), 1), BATCH)]
        outputs = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        if not np.isfinite(outputs).all():
            raise InputError(f"{self.model.name}: the network puts out NaN or infinity; verify the bundle")
        ran = time.perf_counter()
        points = map_back(outputs, regions, self.spec)
        return crops, points, outputs, Times(crop=cropped - start, model=ran - cropped, back=time.perf_counter() - ran)

    def _cut(self, image: Image, regions: Sequence[Region], squares: Sequence[Box] | None) -> NDArray[np.uint8]:
        own = getattr(self.model, "crop", None)
        if own is None or not squares or any(r.angle for r in regions) or has_opencv():
            return cut(image, regions, self.spec)
        return np.stack([own(image, square) for square in squares])

    def close(self) -> None:
        """Free what the back end holds."""
        close = getattr(self.model, "close", None)
        if callable(close):
            close()

    def __enter__(self) -> Landmarker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def as_box(value: BoxLike) -> Box:
    """A `Box` from (x0, y0, x1, y1)."""
    if isinstance(value, Box):
        return value
    try:
        numbers = [float(v) for v in value]
    except (TypeError, ValueError) as error:
        raise UsageError(f"box {value!r}: expected four numbers x0, y0, x1, y1") from error
    if len(numbers) != 4:
        raise UsageError(f"box {numbers}: expected four numbers x0, y0, x1, y1, found {len(numbers)}")
    return Box(*numbers)


def _checked(boxes: Sequence[BoxLike] | NDArray[Any]) -> Sequence[BoxLike] | NDArray[Any]:
    if len(boxes) > MAX_FACES:
        raise UsageError(f"{len(boxes)} boxes, the limit is {MAX_FACES}")
    return boxes


def _usable(points: NDArray[Any]) -> bool:
    """Whether landmarks span a box that can be cut."""
    span = points.max(axis=0) - points.min(axis=0)
    return bool((span > 1).all() and np.isfinite(points).all() and np.abs(points).max() < 1e5)
