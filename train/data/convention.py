"""Two sets of labels of the same faces: how far apart they are, and how much of that is one rule instead of another.

300-W and WFLW put the chin's, brow's and mouth's points at other places. A network that learns from both, or is
measured on one after learning the other, pays for it; the mean offset of each point, in the frame of the eyes, shows
how much.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, UsageError
from runtime.files import write_atomic
from runtime.geometry import Box
from runtime.layouts import IBUG68, WFLW98, Layout
from runtime.lazy import require
from train.data.sample import FaceSample, FaceSource
from train.evaluate import point_map

REGIONS: dict[str, dict[str, tuple[range, ...]]] = {
    WFLW98.name: {
        "contour": (range(33),),
        "brows": (range(33, 51),),
        "nose": (range(51, 60),),
        "eyes": (range(60, 76),),
        "mouth": (range(76, 96),),
        "pupils": (range(96, 98),),
    },
    IBUG68.name: {
        "contour": (range(17),),
        "brows": (range(17, 27),),
        "nose": (range(27, 36),),
        "eyes": (range(36, 48),),
        "mouth": (range(48, 68),),
    },
}
"""Points of each part of the face."""
SAME_FACE = 0.3
"""Boxes of two labels of one face overlap at least so much (intersection over union)."""


@dataclass(frozen=True)
class Difference:
    """Labels of one source against those of another, over the faces that both label."""

    layout: Layout
    faces: tuple[tuple[int, int], ...]
    """Their numbers in the two sources."""
    offsets: NDArray[np.float64]
    """(F, N, 2): the first's point minus the second's, along the line of the eyes and across it, in eye distances."""
    mean_face: NDArray[np.float64]
    """(N, 2) of the second's labels in that frame, the middle of the eyes at 0."""

    @property
    def distance(self) -> NDArray[np.float64]:
        """(N,) mean distance."""
        return _known_mean(np.hypot(self.offsets[..., 0], self.offsets[..., 1]))

    @property
    def shift(self) -> NDArray[np.float64]:
        """(N, 2) mean offset: what the rules differ by."""
        return _known_mean(self.offsets)

    @property
    def scatter(self) -> NDArray[np.float64]:
        """(N,) mean distance that is left when the mean offset is taken away."""
        rest = self.offsets - self.shift
        return _known_mean(np.hypot(rest[..., 0], rest[..., 1]))

    def rows(self) -> list[tuple[str, float, float, float]]:
        """Name of a part, mean distance, systematic part, scatter; as fractions of the eye distance."""
        shift = np.hypot(self.shift[:, 0], self.shift[:, 1])
        parts = {"all": list(range(self.layout.count))}
        for name, ranges in REGIONS.get(self.layout.name, {}).items():
            parts[name] = [point for run in ranges for point in run]
        known = [(name, points) for name, points in parts.items() if np.isfinite(self.distance[points]).any()]
        return [
            (name, _mean(self.distance[points]), _mean(shift[points]), _mean(self.scatter[points]))
            for name, points in known
        ]


def _known_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the first axis and what is known; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(0)
    return np.asarray(np.where(count, np.where(known, values, 0).sum(0) / np.maximum(count, 1), np.nan))


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values))


def compare_labels(first: FaceSource, second: FaceSource) -> Difference:
    """Faces are matched by the name of their photo and by where they are in it."""
    layout, places = _common(first.layout, second.layout)
    pairs = _matched(first, second)
    if not pairs:
        raise InputError(
            "the two have no face in common: no photo's name is in both with a face at the same place "
            "(pictures under other names are found by toolkit data overlap)"
        )
    eyes = layout.default_normaliser
    offsets, faces = [], []
    for a, b in pairs:
        theirs, ours = (
            np.asarray(source.sample(index).points, dtype=np.float64)[place]
            for source, index, place in zip((first, second), (a, b), places, strict=True)
        )
        left, right = ours[list(eyes.left)].mean(0), ours[list(eyes.right)].mean(0)
        gap = right - left
        length = float(np.hypot(*gap))
        if not np.isfinite(length) or length < 1:
            continue
        x = gap / length
        frame = np.stack([x, [-x[1], x[0]]]) / length
        offsets.append((theirs - ours) @ frame.T)
        faces.append((ours - (left + right) / 2) @ frame.T)
    if not offsets:
        raise InputError("no face that both label has two known eyes")
    return Difference(layout, tuple(pairs), np.stack(offsets), _known_mean(np.stack(faces)))


def _common(first: Layout, second: Layout) -> tuple[Layout, tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """The smaller layout, and where its points are in each."""
    small, large = (second, first) if first.count >= second.count else (first, second)
    if not small.normalisers:
        raise UsageError(
            f"layout {small.name}: it does not say which points are the eyes, which distances are divided by"
        )
    try:
        places = point_map(large, small)
    except UsageError:
        raise UsageError(f"labels with {first.name} and {second.name} points share no points that are known") from None
    own = np.arange(small.count)
    return small, (places, own) if large is first else (own, places)


def _matched(first: FaceSource, second: FaceSource) -> list[tuple[int, int]]:
    at: dict[str, list[int]] = {}
    for index in range(len(second)):
        at.setdefault(second.sample(index).image.name, []).append(index)
    boxes = {index: _box(second.sample(index)) for group in at.values() for index in group}
    pairs, taken = [], set()
    for index in range(len(first)):
        sample = first.sample(index)
        box = _box(sample)
        likely = [
            (_overlap(box, boxes[other]), -other) for other in at.get(sample.image.name, ()) if other not in taken
        ]
        overlap, other = max(likely, default=(0.0, 0))
        if overlap >= SAME_FACE:
            pairs.append((index, -other))
            taken.add(-other)
    return pairs


def _box(sample: FaceSample) -> Box | None:
    points = np.asarray(sample.points, dtype=np.float64)
    return Box.around(points) if np.isfinite(points).any() else None


def _overlap(a: Box | None, b: Box | None) -> float:
    if a is None or b is None:
        return 0.0
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a.width * a.height + b.width * b.height - width * height)


def draw_difference(found: Difference, names: Sequence[str], path: Path) -> None:
    """Write a PNG: the mean face with both rules' points, and the systematic offset of each point."""
    figure = require("matplotlib.figure", "drawing the difference").Figure(figsize=(12, 6), layout="constrained")
    face, bars = figure.subplots(1, 2)
    shift = found.shift
    drawn = ((found.mean_face, names[1], "tab:blue"), (found.mean_face + shift, names[0], "tab:red"))
    for place, name, colour in drawn:
        for line in found.layout.lines:
            face.plot(*place[list(line)].T, color=colour, linewidth=0.8, alpha=0.7)
        face.plot(*place.T, ".", color=colour, markersize=4, label=name)
    face.set(title=f"mean of {len(found.offsets)} faces", aspect="equal")
    face.invert_yaxis()
    face.set_axis_off()
    face.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0))
    points = np.arange(found.layout.count)
    bars.bar(points, 100 * found.distance, width=1.0, color="lightgrey", label="mean distance")
    bars.bar(points, 100 * np.hypot(shift[:, 0], shift[:, 1]), width=0.7, color="tab:red", label="systematic part")
    bars.set(title="each point", xlabel="point", ylabel="% of the eye distance")
    bars.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100, metadata={"Software": None})
    write_atomic(path, lambda out: out.write(stream.getvalue()))
