"""Faces through time: tracked by their own landmarks, re-detected now and then, ids kept through crossings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from runtime.confidence import ScoreKind
from runtime.detect.protocol import Detection
from runtime.errors import UsageError
from runtime.face import Face
from runtime.geometry import Box, Region
from runtime.images import Image
from runtime.landmarker import Landmarker, Result, Times
from runtime.smooth import OneEuro, PointFilter

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class TrackSettings:
    """How a tracker behaves; the defaults suit a camera of 15 to 60 frames per second."""

    redetect: int = 15
    """Frames between two looks of the detector; it is also asked when a track is lost."""
    keep: float = 0.3
    """When the detector looks too, a face whose agreement with its mirror image scores below this is lost."""
    hint: float = 0.05
    """Between these looks the score is the free one, which knows less; below this it calls for the detector."""
    patience: float = 1.5
    """Seconds for which a lost face keeps its id."""
    reach: float = 0.75
    """How far from where it was expected, in face sides, a face is still the same one."""
    smooth: OneEuro | None = field(default_factory=OneEuro)
    """None switches smoothing off."""


@dataclass
class _Track:
    number: int
    points: NDArray[np.float32]
    box: Box
    centre: Vector
    side: float
    look: Vector
    angle: float
    seen: float
    detection: float | None
    score: float
    velocity: Vector = field(default_factory=lambda: np.zeros(2))
    """Pixels per second."""
    lost: bool = False
    filter: PointFilter | None = None

    def expected(self, seconds: float) -> Vector:
        """Where the centre should be now; a lost face is not followed for longer than a second."""
        return np.asarray(self.centre + self.velocity * min(seconds - self.seen, 1.0))


@dataclass(frozen=True)
class _Candidate:
    face: Face
    centre: Vector
    side: float
    look: Vector
    track: _Track | None
    """The track that this square was cut for; None for what the detector found."""


class FaceTracker:
    """Frames in, faces with ids out.

    Example: `tracker = FaceTracker(Landmarker("bundle", detector="yunet:model.onnx"))`, then `tracker(frame, seconds)`
    for every frame in order.
    """

    def __init__(self, landmarker: Landmarker, settings: TrackSettings | None = None) -> None:
        self._landmarker = landmarker
        self._settings = settings or TrackSettings()
        if self._settings.redetect < 1:
            raise UsageError(f"redetect={self._settings.redetect}: expected at least 1 frame")
        self._tracks: list[_Track] = []
        self._count = 0
        self._since_detection: int | None = None
        self._time: float | None = None

    def __call__(self, image: Image, seconds: float) -> list[Face]:
        """Faces of the next frame; `seconds` is its time and must grow."""
        return self.run(image, seconds).faces

    def run(self, image: Image, seconds: float) -> Result:
        """The same with the time of every stage."""
        if self._time is not None and seconds <= self._time:
            raise UsageError(f"frame at {seconds} s after one at {self._time} s: times must grow")
        self._time = seconds
        live = [t for t in self._tracks if not t.lost]
        predicted = [_moved(t.points, t.expected(seconds) - t.centre) for t in live]
        regions = [self._landmarker.region_around(p, t.angle) for p, t in zip(predicted, live, strict=True)]
        due = self._since_detection is None or self._since_detection + 1 >= self._settings.redetect
        known = [Detection(t.box, t.detection) for t in live]
        candidates, times = self._look(image, regions, known, live, "flip" if due else "shape")
        if due or len(candidates) < len(live):
            found, second = self._detect(image, candidates)
            candidates, times = candidates + found, times + second
            self._since_detection = 0
        else:
            self._since_detection = (self._since_detection or 0) + 1
        faces = self._assign(candidates, seconds)
        return Result(faces, times, image)

    def _look(
        self,
        image: Image,
        regions: list[Region],
        detections: list[Detection],
        tracks: Sequence[_Track | None],
        kind: ScoreKind,
    ) -> tuple[list[_Candidate], Times]:
        """Landmarks in squares; what is no face is left out. New faces get the second pass, if there is one."""
        if not regions:
            return [], Times()
        passes = 1 if any(tracks) else None
        faces, times = self._landmarker.locate(image, regions, detections, passes=passes, kind=kind)
        least = self._settings.keep if kind == "flip" else self._settings.hint
        kept = []
        for face, track in zip(faces, tracks, strict=True):
            if face.score < least or not _sound(face.points, image):
                continue
            if kind == "shape" and track is not None:
                face = replace(face, score=track.score)
            box = Box.around(face.points)
            centre = np.asarray(box.centre)
            kept.append(_Candidate(face, centre, max(box.width, box.height), appearance(image, box), track))
        return kept, times

    def _detect(self, image: Image, candidates: list[_Candidate]) -> tuple[list[_Candidate], Times]:
        """Ask the detector; a face that a track already holds is not looked at twice."""
        start = time.perf_counter()
        detector = self._landmarker.detector
        fresh = []
        for detection in detector(image):
            square = detector.rule.apply(detection.box)
            held = any(_overlap(square, Box.around(c.face.points)) > 0.3 for c in candidates)
            if not held:
                fresh.append(detection)
        regions = [self._landmarker.region_of(d, detector.rule) for d in fresh]
        spent = time.perf_counter() - start
        found, times = self._look(image, regions, fresh, [None] * len(fresh), "flip")
        return found, replace(times, detect=times.detect + spent)

    def _assign(self, candidates: list[_Candidate], seconds: float) -> list[Face]:
        """Give every face its track: the cheapest pairs of place and appearance first."""
        candidates = self._without_doubles(candidates, seconds)
        pairs = []
        for at, candidate in enumerate(candidates):
            for place, track in enumerate(self._tracks):
                cost = self._cost(candidate, track, seconds)
                if cost is not None:
                    pairs.append((cost, at, place))
        owner: dict[int, int] = {}
        taken: set[int] = set()
        for _, at, place in sorted(pairs):
            if at not in owner and place not in taken:
                owner[at] = place
                taken.add(place)
        faces = []
        for at, candidate in enumerate(candidates):
            track = self._tracks[owner[at]] if at in owner else self._new(candidate)
            box = Box.around(candidate.face.points)
            covered = any(_overlap(box, Box.around(c.face.points)) > 0.1 for c in candidates if c is not candidate)
            faces.append(self._update(track, candidate, seconds, covered))
        for place, track in enumerate(self._tracks):
            if track.seen != seconds and place not in taken:
                track.lost = True
        self._tracks = [t for t in self._tracks if seconds - t.seen <= self._settings.patience]
        return sorted(faces, key=lambda f: f.track or 0)

    def _cost(self, candidate: _Candidate, track: _Track, seconds: float) -> float | None:
        """How little a face looks like the continuation of a track; None when it cannot be it."""
        side = max(track.side, 1.0)
        away = float(np.hypot(*(candidate.centre - track.expected(seconds)))) / side
        ratio = candidate.side / side
        reach = self._settings.reach * (2.0 if track.lost else 1.0)
        if away > reach or not 0.5 < ratio < 2.0:
            return None
        unlike = 1 - float((candidate.look * track.look).mean())
        return away + abs(float(np.log(ratio))) + unlike + (0.0 if candidate.track is track else 0.15)

    def _without_doubles(self, candidates: list[_Candidate], seconds: float) -> list[_Candidate]:
        """Two squares that ended on the same face: the one that fits its own track better stays."""

        def misfit(candidate: _Candidate) -> float:
            cost = None if candidate.track is None else self._cost(candidate, candidate.track, seconds)
            return 10.0 if cost is None else cost

        kept: list[_Candidate] = []
        for candidate in sorted(candidates, key=misfit):
            box = Box.around(candidate.face.points)
            if all(_overlap(box, Box.around(other.face.points)) < 0.5 for other in kept):
                kept.append(candidate)
        return kept

    def _new(self, candidate: _Candidate) -> _Track:
        self._count += 1
        smooth = self._settings.smooth
        track = _Track(
            self._count,
            candidate.face.points,
            candidate.face.box,
            candidate.centre,
            candidate.side,
            candidate.look,
            candidate.face.region.angle,
            seen=-np.inf,
            detection=candidate.face.detection,
            score=candidate.face.score,
            filter=PointFilter(smooth) if smooth else None,
        )
        self._tracks.append(track)
        return track

    def _update(self, track: _Track, candidate: _Candidate, seconds: float, covered: bool) -> Face:
        """A face that another one covers moves and looks as it did before: what is seen of it then misleads."""
        face = candidate.face
        if np.isfinite(track.seen) and seconds > track.seen and not covered:
            measured = (candidate.centre - track.centre) / (seconds - track.seen)
            track.velocity = 0.75 * track.velocity + 0.25 * measured
        if track.lost and self._settings.smooth:
            track.filter = PointFilter(self._settings.smooth)
        track.points, track.centre, track.side = face.points, candidate.centre, candidate.side
        if not covered:
            track.look = _unit(0.9 * track.look + 0.1 * candidate.look)
        track.seen, track.lost, track.score = seconds, False, face.score
        if candidate.track is None:
            track.detection, track.box = face.detection, face.box
        else:
            track.box = Box.around(face.points)
        points = track.filter(face.points, seconds, candidate.side) if track.filter else face.points
        return replace(face, points=points, box=track.box, detection=track.detection, track=track.number)


def appearance(image: Image, box: Box, cells: int = 6) -> Vector:
    """What a face looks like, coarsely: colours on a grid, mean 0 and spread 1, so that light alone changes little."""
    height, width = image.shape[:2]
    x = np.linspace(box.x0, box.x1, 2 * cells + 1)[1::2].round().astype(np.intp).clip(0, width - 1)
    y = np.linspace(box.y0, box.y1, 2 * cells + 1)[1::2].round().astype(np.intp).clip(0, height - 1)
    step = max(1, int(box.width / cells / 4))
    patch = np.mean(
        [
            image[(y + dy).clip(0, height - 1)[:, None], (x + dx).clip(0, width - 1)[None]]
            for dy in (-step, 0, step)
            for dx in (-step, 0, step)
        ],
        axis=0,
    )
    return _unit(patch.reshape(-1))


def _unit(values: Vector) -> Vector:
    centred = values - values.mean()
    return np.asarray(centred / max(float(centred.std()), 1e-6))


def _moved(points: NDArray[np.float32], by: Vector) -> NDArray[np.float32]:
    return (points + by).astype(np.float32)


def _overlap(one: Box, other: Box) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (one.width * one.height + other.width * other.height - shared)


def _sound(points: NDArray[np.float32], image: Image) -> bool:
    """Whether landmarks still lie on a face inside the picture."""
    height, width = image.shape[:2]
    low, high = points.min(axis=0), points.max(axis=0)
    if (high - low).min() < 3 or (high - low).max() > 4 * max(height, width):
        return False
    centre = (low + high) / 2
    return bool(-0.1 * width <= centre[0] <= 1.1 * width and -0.1 * height <= centre[1] <= 1.1 * height)
